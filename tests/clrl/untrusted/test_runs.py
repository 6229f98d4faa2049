"""Settings and results of a run that others made."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import clrl
from clrl.run import Run
from tests.clrl import forgery
from tests.clrl.conftest import PPO
from tests.clrl.forgery import NOT_JSON, NOT_PLAIN
from tests.clrl.untrusted.conftest import refused


@pytest.mark.parametrize("how", NOT_PLAIN)
@pytest.mark.parametrize("name", ["run.json", "progress.csv", "retention.json", "tb", "videos"])
def test_what_is_no_plain_file_in_a_run_is_refused(
    how: str, name: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if how in ("terabyte", "folder") and name != "run.json":
        pytest.skip("a run may hold it")
    if (copy / name).is_dir():
        shutil.rmtree(copy / name)
    NOT_PLAIN[how](copy / name)
    assert name in refused(capsys, marker, "resume", str(copy))


def test_a_link_in_place_of_the_checkpoints_is_refused(
    copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rename(copy / "checkpoints", copy.parent / "elsewhere")
    (copy / "checkpoints").symlink_to(copy.parent / "elsewhere")
    assert "is a link" in refused(capsys, marker, "evaluate", str(copy))


@pytest.mark.parametrize("content", [*NOT_JSON, "pickle", "zip", "zip bomb"])
def test_a_run_file_that_is_no_run_is_refused(
    content: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {
        "pickle": forgery.pickled(marker),
        "zip": forgery.zipped(marker),
        "zip bomb": forgery.bomb(),
    }
    (copy / "run.json").write_bytes((NOT_JSON | others)[content])
    for command in ("play", "evaluate", "resume", "export"):
        out = ["--out", str(copy / "b")] if command == "export" else []
        assert "run.json" in refused(capsys, marker, command, str(copy), *out)


def _set(content: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split("/")
    for key in outer:
        content = content[int(key) if key.isdigit() else key]  # type: ignore[index]
    content[last] = value


SPAWN = {"args": ["mkdir", "MARKER"]}
SETTINGS: dict[str, tuple[str, Any]] = {
    "a skill that spawns": ("curriculum/skills", [{"id": "subprocess:Popen", **SPAWN}]),
    "a skill that calls": ("curriculum/skills", [{"id": "os:system", "command": "mkdir MARKER"}]),
    "a skill from C": ("curriculum/skills", [{"id": "posix:system", "command": "mkdir MARKER"}]),
    "a skill that is a builtin": ("curriculum/skills", [{"id": "builtins:exec"}]),
    "a skill that unpickles": ("curriculum/skills", [{"id": "torch:load", "f": "PICKLE"}]),
    "a skill of NumPy": ("curriculum/skills", [{"id": "numpy:load", "file": "PICKLE"}]),
    "a skill that is no class": ("curriculum/skills", [{"id": "clrl.cli:main"}]),
    "a skill in a zip": ("curriculum/skills", [{"id": "../evil.zip:Skill"}]),
    "a module without a name": ("curriculum/skills", [{"id": ":Skill"}]),
    "a relative module": ("curriculum/skills", [{"id": ".evil:Skill"}]),
    "a protection that spawns": ("protect", {"subprocess:Popen": SPAWN}),
    "a protection that calls": ("protect", {"os:system": {"command": "mkdir MARKER"}}),
    "a protection that unpickles": ("protect", {"torch:load": {"f": "PICKLE"}}),
    "protections in a list": ("protect", ["ewc"]),
    "options of another protection": ("protect", {"ewc": {"samples": 10**30}}),
    "an agent by module": ("agent", "subprocess:Popen"),
    "an agent that is a list": ("agent", ["ppo"]),
    "a policy by name": ("options/policy", "subprocess:Popen"),
    "an environment": ("options/env", "CartPole-v1"),
    "options that a run decides": ("options/_init_setup_model", True),
    "a class as text": ("options/policy_kwargs", {"activation_fn": "torch.nn.Tanh"}),
    "a network without end": ("options/policy_kwargs/net_arch", [10**9, 10**9]),
    "heads without end": ("options/policy_kwargs/max_skills", 10**9),
    "worlds without end": ("worlds", 2**62),
    "episodes that are text": ("episodes", "100"),
    "a device that is a number": ("device", 3),
    "a device that is a path": ("device", "/dev/zero"),
    "a learning rate that is text": ("options/learning_rate", "lambda _: __import__('os')"),
    "a seed that is a table": ("seed", {"a": 1}),
    "a curriculum that is a list": ("curriculum", []),
    "a name of many lines": ("curriculum/name", "a\nb"),
    "an unknown setting": ("callback", "os:system"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_others_run_nothing(
    name: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "payload").write_bytes(forgery.pickled(marker))
    content = json.loads((copy / "run.json").read_text())
    path, value = SETTINGS[name]
    text = json.dumps(value).replace("MARKER", str(marker))
    _set(content, path, json.loads(text.replace("PICKLE", str(tmp_path / "payload"))))
    (copy / "run.json").write_text(json.dumps(content))
    for command in ("evaluate", "resume"):
        refused(capsys, marker, command, str(copy))


def test_a_curriculum_name_leads_nowhere(run: Run, tmp_path: Path) -> None:
    from clrl.envs import Curriculum, make_skill

    skill = make_skill("arm-reach", name="../../up")
    assert Curriculum("../x", [skill]).names == ["../../up"]  # a name, never a path:
    result = clrl.train(Curriculum("../x", [skill]), out=tmp_path / "a" / "run", **PPO)
    assert {p.name for p in tmp_path.iterdir()} == {"a"}
    assert result.retention().skills == ("../../up",)


@pytest.mark.parametrize("content", [*NOT_JSON, "pickle", "zip"])
def test_a_result_that_is_none_is_refused(
    content: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"pickle": forgery.pickled(marker), "zip": forgery.zipped(marker)}
    (copy / "retention.json").write_bytes((NOT_JSON | others)[content])
    line = refused(capsys, marker, "export", str(copy), "--out", str(copy.parent / "b"))
    assert "retention.json" in line
    assert not (copy.parent / "b").exists()
