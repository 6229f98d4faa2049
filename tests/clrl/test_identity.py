"""What loads is what was saved, or an error names both; and every skill is measured by itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clrl
from clrl import checkpoint, config, export, sealed
from clrl.cli import main
from clrl.envs import Curriculum
from clrl.envs.arm_skills import Press, Reach
from clrl.envs.layout import Part
from clrl.envs.world import World
from clrl.eval.evaluator import Evaluator
from clrl.measure import measure_row
from clrl.run import Run


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    shutil.copytree(run.path, tmp_path / "run")
    return tmp_path / "run"


LOADS = (clrl.load, clrl.resume, lambda path: clrl.evaluate(path, episodes=1))


def changed(copy: Path, path: str, value: Any) -> None:
    """Another entry in run.json."""
    content = json.loads((copy / "run.json").read_text())
    inner = content
    *outer, last = path.split("/")
    for key in outer:
        inner = inner[int(key) if key.isdigit() else key]
    inner[last] = value
    (copy / "run.json").write_text(json.dumps(content))


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("agent", "sac", "agent was 'ppo', and here it is 'sac'"),
        ("protect", {"ewc": {}}, r"protections was .*'distill'.* and here it is \['ewc'\]"),
        ("curriculum/skills/1/id", "arm-push", r"skills was .*'press'.*, and here it is .*'push'"),
        ("curriculum/skills/1/horizon", 7, "horizon of skill 'press' was 25, and here it is 7"),
        ("curriculum/skills/0/success_rule", "last-step", "was 'any-step', and here .*last-step"),
    ],
)
def test_another_run_is_told_from_this_one(
    load: Any, path: str, value: Any, message: str, copy: Path
) -> None:
    if path == "agent":
        changed(copy, "options", {"policy_kwargs": {"net_arch": [128, 128], "normalize": True}})
    changed(copy, path, value)
    with pytest.raises(ValueError, match=message) as refusal:
        load(copy)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("load", LOADS)
def test_the_same_numbers_in_another_order_are_told_apart(
    load: Any, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of the same shapes would load in silence."""
    swapped: tuple[Part, ...] = (*Press.observation_layout[1:], Press.observation_layout[0])
    monkeypatch.setattr(Press, "observation_layout", swapped)
    with pytest.raises(ValueError, match="observation of skill 'press' was '23 numbers, layout"):
        load(copy)


def test_another_curriculum_is_told_from_this_one(copy: Path) -> None:
    other = Curriculum("other", ["arm-press", "arm-reach"])
    with pytest.raises(ValueError, match=r"was trained on .*arm-reach.* given has .*arm-press"):
        clrl.load(copy, other)


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 7), ("agent", "sac"), ("curriculum", "x"), ("skills", ["a", "b"])]
)
def test_a_result_of_another_run_is_not_exported(key: str, value: Any, copy: Path) -> None:
    content = json.loads((copy / "retention.json").read_text()) | {key: value}
    (copy / "retention.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"retention.json has the {key} .* run.json has"):
        export.export(Run.open(copy), allow_forgetting=True)


def test_other_versions_stop_a_resumption_and_are_told_elsewhere(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = config.versions() | {"mujoco": "9.9.9"}
    monkeypatch.setattr("clrl.identity.versions", lambda: now)
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(copy)])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert "made with mujoco 3.17.0, here 9.9.9" in line
    assert "--allow-versions" in line
    assert clrl.load(copy).skills == ["reach", "press"]
    assert "made with mujoco 3.17.0, here 9.9.9" in caplog.text
    main(["resume", str(copy), "--allow-versions"])


def test_a_checkpoint_from_before_it_said_what_it_is_still_loads(copy: Path) -> None:
    for path in checkpoint.steps(copy / "checkpoints"):
        manifest = json.loads((path / sealed.MANIFEST).read_text())
        del manifest["sha256"], manifest["info"]["identity"]
        (path / sealed.MANIFEST).write_bytes(sealed.seal(manifest))
    assert clrl.load(copy).skills == ["reach", "press"]


class Always(Reach):
    name = "always"
    horizon = 3

    def success(self, world: World) -> torch.Tensor:
        return torch.ones(world.n, dtype=torch.bool, device=world.device)


class Never(Reach):
    name = "never"
    horizon = 3

    def success(self, world: World) -> torch.Tensor:
        return torch.zeros(world.n, dtype=torch.bool, device=world.device)


@pytest.mark.parametrize("order", [(Always, Never), (Never, Always)])
def test_every_column_of_the_matrix_is_its_own_skill(order: tuple[type[Reach], ...]) -> None:
    """Results were published of evaluators that tested the first task only."""

    class Idle:
        skills: tuple[str, ...] = ()

        def newest(self) -> Any:
            return lambda observation: np.zeros((len(observation), 4), np.float32)

    curriculum = Curriculum("two", [kind() for kind in order])
    evaluator = Evaluator(curriculum, episodes=4, threads=1)
    run = Run(Path("two"), config.Config(curriculum=curriculum.to_json()), curriculum)
    rates = [score.rate for score in measure_row(run, evaluator, Idle(), 0)]
    assert rates == [float(kind is Always) for kind in order]
