"""What a person types: answers, and one line with exit status 2 for what cannot be."""

import json
import os
import re
import shutil
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest
import torch

import clrl
from clrl.cli import main
from clrl.config import resolve
from clrl.envs import Curriculum, make_curriculum, make_skill
from clrl.envs.arm_skills import Reach
from clrl.envs.episodes import Episodes
from clrl.run import Run


@pytest.fixture(scope="module")
def run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of it, in which resuming and filming leave something."""
    copy = shutil.copytree(run.path, tmp_path_factory.mktemp("runs") / "pair")
    return Run.open(copy)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arm9"], "unknown curriculum 'arm9'; choose from arm3, arm6"),
        (["arm-pish"], "unknown curriculum 'arm-pish'; did you mean the skill 'arm-push'?"),
        (["arm-reach,arm-fly"], "unknown skill 'arm-fly'"),
        (["arm3", "--horizon", "0"], "horizon must be a whole number in [1, 1,000,000], got 0"),
        (["arm3", "--horizon", "9" * 12], "horizon must be a whole number in [1, 1,000,000]"),
        (["arm3", "--success", "often"], "success_rule must be any-step or last-step"),
        (["missing.toml"], "curriculum file missing.toml does not exist"),
        (["arm3", "--agent", "dqn"], "unknown agent 'dqn'; choose from ppo, sac"),
        (["arm3", "--protect", "ewk"], "unknown protection 'ewk'; choose from ewc"),
        (["arm3", "--protect", "ewc", "ewc"], "named twice"),
        (["--protect", "ewc", "arm3"], "say `clrl train arm3 --protect ...`"),
        (["arm3", "--protect", "none", "ewc"], "protect 'none' stands alone"),
        (["arm3", "--device", "tpu"], "unknown device 'tpu'; choose from auto, cpu, cuda"),
        (["arm3", "--device", "cuda"], "device 'cuda'"),
        (["arm3", "--seed", "-1"], "seed must be a whole number >= 0, got -1"),
        (["arm3", "--seed", "x"], "invalid int value: 'x'"),
        (["arm3", "--steps-per-skill", "0"], "steps per skill must be a whole number in"),
        (["arm3", "--steps-per-skill", "9" * 30], "steps per skill must be a whole number in"),
        (["arm3", "--threads", "-2"], "threads must be a whole number >= 0"),
        (["arm3", "--keep-checkpoints", "0"], "keep_checkpoints must be a whole number >= 1"),
        (["arm3", "--checkpoint-seconds", "-1"], "checkpoint_seconds must be a number >= 0"),
        (["arm3", "--checkpoint-seconds", "nan"], "checkpoint_seconds must be a number >= 0"),
        (["FrozenLake-v1"], "a curriculum needs a one-dimensional Box"),
        (["arm3", "--frobnicate"], "arguments: --frobnicate (see `clrl train --help`)"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "train", *arguments, "--out", "made")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "skills = [", "not valid toml"),
        ("a.json", "{", "not valid json"),
        ("a.toml", "name = 'x'", "needs a list 'skills'"),
        ("a.toml", "skills = [3]", "needs a list 'skills'"),
        ("a.toml", "skills = []", "needs a list 'skills'"),
        ("a.toml", "skills = [{id = 'arm-fly'}]", "unknown skill 'arm-fly'"),
        ("a.toml", "skills = [{id = 'arm-push', steps = 'many'}]", "must be a whole number"),
        ("a.toml", "skills = [{id = 'arm-push', steps = -4}]", "budget >= 1"),
        ("a.toml", "skills = [{id = 'arm-push', speed = 2}]", "skill 'arm-push'"),
        ("a.toml", "skils = 1\nskills = [{id = 'arm-push'}]", "unknown keys: 'skils'"),
        ("a.toml", "skills = [{id = 'no_such_module:Skill'}]", "cannot be imported"),
        ("a.json", '{"skills": [{"id": "Walker2d-v99"}]}', "unknown skill 'Walker2d-v99'"),
    ],
)
def test_bad_curriculum_files_are_refused(
    name: str, text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert message in refused(capsys, "train", str(file), "--out", str(tmp_path / "made"))
    assert not (tmp_path / "made").exists()


def test_a_curriculum_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("skills = [{id = 'arm-reach', steps = 10}, {id = 'Reacher-v5'}]")
    curriculum = make_curriculum(str(file))
    assert curriculum.name == "mine"
    assert curriculum.names == ["reach", "Reacher-v5"]
    assert curriculum.steps[0] == 10


def test_an_existing_directory_is_left_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in run.path.rglob("*"))
    line = refused(capsys, "train", "arm3", "--out", str(run.path))
    assert "exists; choose another --out, or `clrl resume" in line
    assert sorted(path.name for path in run.path.rglob("*")) == before


def test_an_unwritable_place_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused(capsys, "train", "arm3", "--out", str(tmp_path / "file" / "run"))
    assert "is a file, not a directory" in line


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clrl import checkpoint

    written, real = 0, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 8:  # the directory and the first checkpoint are whole
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    line = refused(
        capsys, "train", "arm-reach", "--steps-per-skill", "100", "--out", str(tmp_path / "run")
    )
    assert "No space left on device" in line
    folder = tmp_path / "run" / "checkpoints"
    assert checkpoint.newest_valid(folder) is not None
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_a_damaged_run_is_refused(
    damage: str, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    file = copy / "run.json"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_text(file.read_text()[:50])
    else:
        file.write_text(file.read_text().replace('"seed"', '"seeds"', 1))
    for command in ("resume", "evaluate", "play"):
        assert "run.json" in refused(capsys, command, str(copy))


def test_evaluate_needs_no_result_but_a_damaged_one_is_refused(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    file = copy / "retention.json"
    file.write_text(file.read_text().replace("0.0", "0.5", 1))
    with pytest.raises(ValueError, match=r"retention\.json"):
        Run.open(copy).retention()
    file.unlink()
    main(["evaluate", str(copy), "--episodes", "1"])


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_refused(
    name: str, damage: str, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    for folder in (copy / "checkpoints").iterdir():
        file = folder / name
        data = file.read_bytes()
        if damage == "missing":
            file.unlink()
        elif damage == "truncated":
            file.write_bytes(data[: len(data) // 2])
        else:
            file.write_bytes(data[:40] + b"x" + data[41:])
    refused(capsys, "evaluate", str(copy))
    refused(capsys, "resume", str(copy))


def test_an_agent_that_does_not_fit_its_curriculum_is_refused(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    content = json.loads((copy / "run.json").read_text())
    content["options"]["policy_kwargs"]["net_arch"] = [8]
    (copy / "run.json").write_text(json.dumps(content))
    assert "does not fit" in refused(capsys, "evaluate", str(copy))
    content["options"]["policy_kwargs"]["net_arch"] = [128, 128]
    content["curriculum"]["skills"] = [{"id": "Reacher-v5"}, {"id": "Pusher-v5"}]
    (copy / "run.json").write_text(json.dumps(content))
    assert "skills was ['reach', 'press'], and here it is ['Reacher-v5'" in refused(
        capsys, "evaluate", str(copy)
    )


def test_no_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("resume", "evaluate", "play"):
        assert "is not a run: it has no run.json" in refused(capsys, command, str(tmp_path))


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert "arm3" in content["curricula"]
    assert "arm-push" in content["skills"]
    main(["list"])
    assert "Push the puck along the table to a goal" in capsys.readouterr().out


def test_an_error_inside_a_skill_says_how_to_find_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("clrl.envs.arm_skills.Reach.reward", fail)
    line = refused(capsys, "train", "arm-reach", "--out", str(tmp_path / "run"))
    assert re.search(r"shape mismatch \(in test_cli.py, line \d+; CLRL_DEBUG=1 shows where\)", line)


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("reward", torch.zeros(8), "reward must give a dict of named terms"),
        ("reward", {"near": torch.zeros(8, 3)}, "reward's 'near' must be a tensor of shape (8,)"),
        ("success", torch.zeros(8), "success must be of type bool"),
        ("observe", torch.zeros(8, 2), "observe must be a tensor of shape (8, 23), got (8, 2)"),
    ],
)
def test_a_skill_whose_functions_give_other_shapes_is_told_which(
    monkeypatch: pytest.MonkeyPatch, method: str, value: object, message: str
) -> None:
    episodes = Episodes(Reach(), 8, threads=1)
    episodes.reset()
    monkeypatch.setattr(Reach, method, lambda *_: value)
    with pytest.raises(ValueError, match=re.escape(f"skill 'reach': {message}")):
        episodes.step(torch.zeros(8, 4))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_term_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    episodes = Episodes(Reach(), 4, threads=1)
    episodes.reset()
    episodes.step(torch.zeros(4, 4))
    good = torch.zeros(4)
    bad = torch.tensor([0.0, 0.0, value, value])
    monkeypatch.setattr(Reach, "reward", lambda *_: {"near": good, "log": bad})
    where = re.escape(f"reward's 'log' is {value} in world 2 of 4, in step 2 of its episode")
    with pytest.raises(ValueError, match=f"skill 'reach': {where}"):
        episodes.step(torch.zeros(4, 4))
    monkeypatch.setattr(Reach, "reward", lambda *_: {"near": good + 3e38, "far": good + 3e38})
    with pytest.raises(ValueError, match="the sum of the reward's terms is not finite"):
        episodes.step(torch.zeros(4, 4))


def test_what_is_no_skill_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = refused(capsys, "train", "arm-reach,clrl.agents.ewc:EWC", "--out", str(tmp_path / "run"))
    assert "'clrl.agents.ewc:EWC' is no skill" in line


def test_evaluate_prints_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(run.path), "--episodes", "2", "--threads", "1", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["protocol"]["episodes"] == 2


def test_a_run_stands_where_its_path_does(run: Run) -> None:
    assert clrl.load(run).skills == run.curriculum.names
    with pytest.raises(ValueError, match="a run is given by its path, not as a dict"):
        clrl.evaluate({})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the file that `save` wrote, not as a dict"):
        clrl.from_sb3({}, "arm-reach")  # type: ignore[arg-type]


class Silent(Reach):
    """A skill with an option that its spec does not tell."""

    def __init__(self, height: float = 0.2, **options: Any) -> None:
        super().__init__(**options)
        self.height = height


def test_a_skill_that_would_be_rebuilt_without_its_option_is_refused() -> None:
    assert Curriculum("mine", [Silent()]).names == ["reach"]
    with pytest.raises(ValueError, match="would be rebuilt without it"):
        Curriculum("mine", [Silent(height=0.4)])


def test_a_class_is_no_skill() -> None:
    with pytest.raises(ValueError, match=re.escape("give Reach(), not the class")):
        Curriculum("mine", [Reach])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="named by its id, here 'arm-reach'"):
        make_skill(Reach)  # type: ignore[arg-type]


def test_an_error_in_code_of_a_user_names_file_and_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "from clrl.envs.arm_skills import Reach\n\n\n"
        "class Broken(Reach):\n    def reward(self, world):\n        return {}['oops']\n"
    )
    (tmp_path / "broken_skill.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    line = refused(capsys, "train", "broken_skill:Broken", "--out", str(tmp_path / "run"))
    assert "KeyError: 'oops' (in broken_skill.py, line 6; CLRL_DEBUG=1 shows where)" in line


def test_none_is_a_protection_by_name_alone() -> None:
    spec = make_curriculum("arm-reach").to_json()
    made = resolve(spec, "ppo", ["none"], seed=0, device="cpu", options={})
    assert made.protect == {}


def test_resuming_a_finished_run_shows_its_result(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["resume", str(run.path)])
    assert "average performance" in capsys.readouterr().out


def test_play_refuses_an_unknown_skill(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no skill 'fly'" in refused(capsys, "play", str(run.path), "--skill", "fly")


def play(run: Run, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clrl", "play", str(run.path), "--skill", "reach"]
    clean = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    return subprocess.run(
        [*command, "--episodes", "1"],
        env=clean | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(find_library("OSMesa") is None, reason="no software OpenGL here")
def test_play_films_without_a_display(run: Run) -> None:
    assert play(run).returncode == 0
    assert (run.path / "videos" / "reach.mp4").stat().st_size > 1000


def test_play_says_what_is_missing_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("videos"))
    result = play(Run.open(copy), MUJOCO_GL="glfw")
    assert result.returncode == 2
    assert "no OpenGL renderer" in result.stderr.splitlines()[-1]
    assert "MUJOCO_GL=osmesa" in result.stderr.splitlines()[-1]
    assert not (copy / "videos").exists()


def test_doctor_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    names = {finding["name"] for finding in json.loads(capsys.readouterr().out)}
    assert names >= {"mujoco", "torch", "renderer", "cuda"}
