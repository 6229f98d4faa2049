"""Joint runs: the same files, resumed bit for bit; and how training is cut into stages."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clrl
from clrl import checkpoint
from clrl.card import card
from clrl.cli import main
from clrl.config import preset_of
from clrl.envs.curriculum import Curriculum, make_curriculum
from clrl.eval.report import table
from clrl.measure import evaluate_run
from clrl.preparation import prepare
from clrl.run import Run
from clrl.schedule import at_once, in_turn
from tests.clrl.conftest import Stopped

COMMON: dict[str, Any] = {
    "joint": True,
    "steps_per_skill": 512,
    "worlds": 4,
    "horizon": 25,
    "threads": 1,
    "episodes": 4,
    "quiet": True,
}
PPO = COMMON | {"n_steps": 32, "batch_size": 64, "n_epochs": 2, "popart": True}
SAC = COMMON | {"agent": "sac", "train_freq": 32, "gradient_steps": 4, "learning_starts": 64}
PAIR = ["arm-reach", "arm-press"]


@pytest.fixture(scope="module", params=[PPO, SAC], ids=["ppo", "sac"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed joint run."""
    return clrl.train(PAIR, out=tmp_path_factory.mktemp("runs") / "joint", **request.param)


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = run.agent().policy.state_dict()
    return state


def test_a_joint_run_is_a_run(whole: Run) -> None:
    result = whole.retention()
    assert np.shape(result.success) == (3, 2)
    assert result.protections == ("joint",)
    assert result.cost["env_steps"] == 2 * 512
    assert len(whole.finals()) == 3
    assert "after 1/2 of training" in table(result)
    assert "after reach" not in table(result)
    again = evaluate_run(whole, episodes=4, quiet=True)
    assert again.success == result.success
    assert again.returns == result.returns
    agent = clrl.load(whole.path)
    assert agent.skills == ["reach", "press"]
    assert agent.act(np.zeros(23, np.float32), skill="press").shape == (4,)


def test_a_joint_run_is_exported(whole: Run) -> None:
    pytest.importorskip("onnx")
    from clrl.export import export

    files = export(whole, allow_forgetting=True)
    assert b'"joint"' in files["policy.json"]
    told = card(json.loads(files["policy.json"]))
    assert "learned all at once" in told
    assert "| - | 40 |" in told  # nothing was learned before another


def test_sac_that_only_explores_says_so(caplog: pytest.LogCaptureFixture) -> None:
    prepare(PAIR, "sac", joint=True, steps_per_skill=512)
    assert "nothing is learned in 1024 steps" in caplog.text
    caplog.clear()
    prepare(PAIR, "sac", joint=True, steps_per_skill=512, learning_starts=100)
    assert not caplog.text


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_stopped_joint_run_resumes_bit_for_bit(
    stop: int, whole: Run, tmp_path: Path, stopped: Stopped
) -> None:
    options = {"ppo": PPO, "sac": SAC}[whole.config.agent]
    with stopped(stop):
        clrl.train(PAIR, out=tmp_path / "cut", checkpoint_seconds=0.0, **options)
    resumed = clrl.resume(tmp_path / "cut", quiet=True)
    mine, theirs = weights(resumed), weights(whole)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert any("popart" in k for k in mine) == (options is PPO)
    assert resumed.retention().success == whole.retention().success
    assert len(checkpoint.steps(resumed.checkpoints)) >= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protect", "ewc"], "joint training has no earlier skill to protect"),
        (["--memory", "4"], "joint training has no external memory"),
        (["--agent", "sac", "--protect", "ewc"], "joint training has no earlier skill to protect"),
    ],
)
def test_the_command_refuses_what_cannot_be_joint(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "arm3", "--joint", "--out", str(tmp_path / "run"), *options])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_too_few_worlds_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a world a skill: 2, got 1"):
        clrl.train(PAIR, out=tmp_path / "run", **PPO | {"worlds": 1})
    assert not (tmp_path / "run").exists()


def test_popart_is_an_option_of_joint_training_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="popart"):
        clrl.train(PAIR, out=tmp_path / "run", **PPO | {"joint": False})


@pytest.mark.parametrize("name", ["clonex", "perfect"])
def test_ppo_is_refused_what_needs_sac_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="use sac"):
        clrl.train(PAIR, protect=[name], out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_skill_with_the_largest_budget_has_what_it_has_alone() -> None:
    for steps, times in (([800, 400, 400], 2.0), ([500] * 10, 10.0), ([7], 1.0)):
        for agent, scaled, rows in (
            ("ppo", ["batch_size"], 1.0),
            ("sac", ["gradient_steps", "buffer_size", "learning_starts"], 0.5),
        ):
            alone, preset = preset_of(agent), preset_of(agent, steps)
            assert preset["worlds"] == times * alone["worlds"]
            assert preset["options"]["batch_size"] == rows * times * alone["options"]["batch_size"]
            for name in scaled:
                assert preset["options"][name] == times * alone["options"][name]
    run = prepare("arm3", joint=True)
    shares = at_once(run.curriculum, run.config.worlds)[0].worlds
    assert shares == (128, 64, 64)
    assert run.config.options["max_grad_norm"] > 0.5


def test_a_budget_of_less_than_a_rollout_for_each_skill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8192 steps a rollout"):
        clrl.train(PAIR, joint=True, steps_per_skill=4000, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert prepare(PAIR, joint=True, steps_per_skill=8192)


@pytest.mark.parametrize(
    ("skills", "folder"),
    [
        ("arm-reach,arm-press", "arm-reach+arm-press-ppo-seed0"),
        (["arm-reach"], "arm-reach-ppo-seed0"),
        (
            "arm-reach,tests.envs.test_divergence:Bursts",
            "arm-reach+tests.envs.test_divergence+Bursts",
        ),
    ],
)
def test_a_run_has_a_name_that_shells_take(skills: Any, folder: str) -> None:
    assert str(prepare(skills).path).startswith(f"runs/{folder}")


def test_in_turn_is_a_stage_a_skill() -> None:
    stages = in_turn(make_curriculum("arm3"), 128)
    assert [s.skills for s in stages] == [("push",), ("dial",), ("drawer",)]
    assert [s.steps for s in stages] == [800_000, 400_000, 400_000]
    assert all(s.worlds == (128,) for s in stages)


def test_at_once_gives_every_skill_its_own_budget() -> None:
    stages = at_once(make_curriculum("arm3"), 128)
    assert [s.worlds for s in stages] == [(64, 32, 32)] * 3
    assert [s.begun for s in stages] == [("push", "dial", "drawer"), (), ()]
    assert sum(s.steps for s in stages) == 1_600_000


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=6), st.integers(0, 100))
def test_shares_add_up_and_follow_the_budgets(steps: list[int], more: int) -> None:
    skills = [f"arm-{name}" for name in ("reach", "press", "push", "drawer", "dial", "lift")]
    curriculum = Curriculum("any", skills[: len(steps)], steps)
    worlds = len(steps) + more
    stages = at_once(curriculum, worlds)
    assert sum(s.steps for s in stages) == sum(steps)
    assert [s.start for s in stages][1:] == np.cumsum([s.steps for s in stages])[:-1].tolist()
    for stage in stages:
        assert sum(stage.worlds) == worlds
        assert min(stage.worlds) >= 1
        by_budget = sorted(zip(steps, stage.worlds, strict=True))
        assert all(a[0] == b[0] or a[1] <= b[1] for a, b in pairwise(by_budget))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 10**5))
def test_shares_are_exact_where_they_can_be(shares: list[int], each: int) -> None:
    skills = [f"arm-{name}" for name in ("reach", "press", "push", "drawer", "dial", "lift")]
    curriculum = Curriculum("any", skills[: len(shares)], [each * share for share in shares])
    assert at_once(curriculum, sum(shares))[0].worlds == tuple(shares)
