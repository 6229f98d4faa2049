"""A trained agent learns one more skill; what it had stays, and goes along to the robot."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import clrl
from clrl import bundle, export
from clrl.adaptation import Adaptation, adapt
from clrl.cli import main
from clrl.run import Run
from tests.clrl.conftest import PAIR, PPO, SAC

STEPS = 64


@pytest.fixture(scope="module")
def base(run: Run) -> Run:
    return run


@pytest.fixture(scope="module")
def heavy(base: Run) -> Run:
    return adapt(base.path, "press", variant={"payload": 2}, steps=STEPS, quiet=True)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_new_run_continues_the_matrix_of_the_old_one(base: Run, heavy: Run) -> None:
    before, after = base.retention(), heavy.retention()
    assert list(after.skills) == [*before.skills, "press-payload-2"]
    assert [row[:-1] for row in after.success[:-1]] == list(before.success)
    assert [row[:-1] for row in after.returns[:-1]] == list(before.returns)
    assert len(after.success) == len(before.success) + 1


def test_a_new_evaluation_finds_the_same_matrix(heavy: Run) -> None:
    again = clrl.evaluate(heavy.path, episodes=heavy.config.episodes)
    # also before its training, when a variant is performed by the skill it is like
    assert again.success == heavy.retention().success
    assert again.returns == heavy.retention().returns


def test_the_old_run_is_not_touched(base: Run, tmp_path: Path) -> None:
    before = digest(base.path)
    adapt(base.path, "arm-drawer", steps=STEPS, out=tmp_path / "new", quiet=True)
    assert digest(base.path) == before


def test_it_starts_from_the_head_and_statistics_of_its_kind(base: Run, heavy: Run) -> None:
    agent = base.agent()
    rows = torch.randn(9, 23)
    agent.begin_skill("like", steps=STEPS, like="press")
    like, press = (agent.gaussian(rows, agent.skill_index(n)) for n in ("like", "press"))
    assert (like[0] == press[0]).all()
    assert heavy.config.adapted == {"base": str(base.path), "like": {"press-payload-2": "press"}}


def test_a_stopped_adaptation_resumes_bit_for_bit(
    base: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"variant": {"payload": 1}, "steps": STEPS, "quiet": True}
    whole = adapt(base.path, "press", out=tmp_path / "whole", **arguments)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("clrl.trainer._Trainer._learn", stop)
        with pytest.raises(KeyboardInterrupt):
            adapt(base.path, "press", out=tmp_path / "cut", **arguments)
    resumed = clrl.resume(tmp_path / "cut", quiet=True)
    pairs = zip(whole.agent().policy.parameters(), resumed.agent().policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert resumed.retention().success == whole.retention().success


def test_what_was_kept_and_gained_is_told(heavy: Run) -> None:
    result = Adaptation.of(heavy)
    *kept, gained = zip(*heavy.retention().success[-2:], strict=True)
    assert list(result.base.values()) == kept
    assert (result.before, result.after) == gained
    assert result.loss == pytest.approx(np.mean([a - b for a, b in kept]))


def test_an_adapted_run_can_be_adapted_again(heavy: Run, base: Run, tmp_path: Path) -> None:
    twice = adapt(heavy.path, "arm-reach", variant={"payload": 1}, steps=STEPS, quiet=True)
    assert twice.curriculum.names == ["reach", "press", "press-payload-2", "reach-payload-1"]
    assert len(export.export(base, [twice], allow_forgetting=True)) == len(bundle.FILES)


def test_a_bundle_with_variants_leaves_the_base_as_it_is(
    base: Run, heavy: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    light = adapt(
        base.path, "press", variant={"payload": 1}, steps=STEPS, out=tmp_path / "l", quiet=True
    )
    alone = export.export(base, allow_forgetting=True)
    export.write(tmp_path / "bundle", export.export(base, [heavy], allow_forgetting=True))
    main(["verify", str(tmp_path / "bundle"), "--json"])
    assert json.loads(capsys.readouterr().out)["skills"]
    whole = export.export(base, [heavy, light], allow_forgetting=True)
    contract = json.loads(whole[bundle.CONTRACT])
    assert [s["name"] for s in contract["skills"]] == [
        *base.curriculum.names,
        "press-payload-2",
        "press-payload-1",
    ]
    assert contract["skills"][2]["measured"]["success"] == heavy.retention().success[-1][2]
    shared = sum(p.nbytes for layer in base.agent().trunk() for p in layer.parameters())
    assert [s["bytes_of_variant"] for s in contract["skills"][:2]] == [None, None]
    assert 1.0 < contract["skills"][2]["bytes_of_variant"] / shared < 1.2
    rows = np.random.default_rng(0).normal(size=(50, 23)).astype(np.float32)
    sessions = [onnxruntime.InferenceSession(f[bundle.GRAPH]) for f in (alone, whole)]
    for index in range(2):
        feed = {"observation": rows, "skill": np.array(index)}
        one, other = (session.run(None, feed)[0] for session in sessions)
        assert (one == other).all()
    for index, run in ((2, heavy), (3, light)):
        got = sessions[1].run(None, {"observation": rows, "skill": np.array(index)})[0]
        wanted = run.agent().act(rows, run.curriculum.names[-1])
        assert np.abs(got - wanted).max() < 1e-5


def test_only_variants_of_the_same_run_share_a_bundle(
    base: Run, heavy: Run, tmp_path: Path
) -> None:
    other = clrl.train(PAIR, seed=1, out=tmp_path / "other", **PPO)
    for run, variant in ((other, heavy), (base, other), (base, base)):
        with pytest.raises(ValueError, match=r"was not made from .* by `clrl adapt`"):
            export.export(run, [variant], allow_forgetting=True)
    with pytest.raises(ValueError, match="two skills share a name"):
        export.export(base, [heavy, heavy], allow_forgetting=True)


BAD: dict[str, tuple[list[str], str]] = {
    "no such skill": (["--skill", "arm-pull"], "arm-pull"),
    "no such option": (["--skill", "press", "--set", "colour=red"], "colour"),
    "out of range": (["--skill", "press", "--set", "payload=-1"], "payload must be a number in"),
    "no setting": (["--skill", "press", "--set", "payload"], "--set takes KEY=VALUE"),
    "a path for a name": (["--skill", "press", "--name", "../x"], "--name takes letters"),
    "name taken": (["--skill", "press"], "give the new one a --name"),
    "other spaces": (["--skill", "Reacher-v5"], "does not fit"),
    "unknown skill": (["--skill", "pish"], "or a Gymnasium id ("),
    "like nothing": (["--skill", "arm-push", "--like", "lift"], "has no skill 'lift'"),
    "no steps": (["--skill", "arm-push", "--steps", "0"], "needs a budget >= 1"),
    "no device": (["--skill", "arm-push", "--device", "tpu"], "unknown device 'tpu'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    case: str, base: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = BAD[case]
    with pytest.raises(SystemExit) as stopped:
        main(["adapt", str(base.path), *arguments, "--out", str(tmp_path / "new")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_steps_in_which_nothing_is_learned_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = clrl.train("arm-reach", "sac", out=tmp_path / "base", **SAC)
    adapt(base.path, "arm-press", steps=64, quiet=True)
    assert "nothing is learned in 64 steps" in caplog.text


def test_an_unprotected_or_unfinished_run_is_not_adapted(base: Run, tmp_path: Path) -> None:
    free = clrl.train(PAIR, out=tmp_path / "free", **PPO | {"protect": []})
    with pytest.raises(ValueError, match="was trained without protections"):
        adapt(free.path, "arm-push")
    (free.path / "retention.json").unlink()
    with pytest.raises(ValueError, match="is not finished"):
        adapt(free.path, "arm-push")
    with pytest.raises(ValueError, match="was not made by `clrl adapt`"):
        Adaptation.of(base)
