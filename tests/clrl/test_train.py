"""A run from beginning to end: what it leaves, how it resumes, what it refuses."""

import csv
import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clrl
from clrl import checkpoint
from clrl.agents import Protection
from clrl.envs import Curriculum, make_curriculum
from clrl.envs.arm_skills import Reach
from clrl.measure import evaluate_run
from clrl.preparation import prepare
from clrl.progress import STEP, make_logger
from clrl.run import Run
from tests.clrl.conftest import PAIR, PPO, SAC, Stopped

OPTIONS = {"ppo": PPO, "sac": SAC}
OFTEN: dict[str, Any] = {"checkpoint_seconds": 0.0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """An undisturbed run of each agent."""
    folder = tmp_path_factory.mktemp("runs")
    return {kind: clrl.train(PAIR, kind, out=folder / kind, **OPTIONS[kind]) for kind in OPTIONS}


@pytest.fixture(scope="module")
def finished(whole: dict[str, Run]) -> Run:
    return whole["ppo"]


def final_state(run: Run) -> dict[str, Any]:
    path = checkpoint.newest_valid(run.checkpoints)
    assert path is not None
    state: dict[str, Any] = checkpoint.read(path)[0]["agent"]
    return state


def same_weights(a: Run, b: Run) -> bool:
    one, two = (final_state(run)["policy"] for run in (a, b))
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_leaves_what_the_design_says(finished: Run) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names >= {"run.json", "progress.csv", "tb", "checkpoints", "retention.json"}
    assert (finished.path / "retention.png").read_bytes().startswith(b"\x89PNG")
    page = (finished.path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<p>1 run of 1 method on " in page
    assert list((finished.path / "tb").glob("events*"))
    result = json.loads((finished.path / "retention.json").read_text())
    assert result["skills"] == ["reach", "press"]
    assert np.shape(result["success"]) == (3, 2)
    assert result["cost"]["env_steps"] == 2 * 768
    assert result["protections"] == ["ewc", "distill", "replay"]
    header = (finished.path / "progress.csv").read_text().splitlines()[0]
    assert "success/reach" in header
    with (finished.path / "progress.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert all(row["time/total_timesteps"] for row in rows)  # resuming keeps those alone
    ends = [row for row in rows if row["plasticity/effective_rank"]]
    assert [int(float(row["time/total_timesteps"])) for row in ends] == [768, 2 * 768]
    assert all(0.0 <= float(row["plasticity/dormant"]) <= 1.0 for row in ends)
    assert float(ends[-1]["cost/parameters"]) == result["cost"]["parameters"]
    assert not any(
        "pickle" in p.suffix or p.suffix in (".pkl", ".pt", ".zip")
        for p in finished.path.rglob("*")
    )


def test_a_log_that_goes_on_is_written_as_it_was(tmp_path: Path) -> None:
    logger = make_logger(tmp_path, 0)
    for name, value in {STEP: 8, "a": np.float32(0.1), "b": 1e-05, "c": "x, y", "d": 3}.items():
        logger.record(name, value)
    logger.dump(8)
    logger.close()
    logs = [(tmp_path / "progress.csv").read_text()]
    make_logger(tmp_path, 8).close()
    logs.append((tmp_path / "progress.csv").read_text())
    before, after = (next(csv.DictReader(log.splitlines())) for log in logs)
    assert after == before  # in whatever order of columns
    assert [log.count('"') for log in logs] == [2, 2]


def test_evaluating_the_checkpoints_gives_the_same_matrix(finished: Run) -> None:
    again = evaluate_run(finished, episodes=4, quiet=True)
    assert again.success == finished.retention().success
    assert again.returns == finished.retention().returns


def test_the_loaded_agent_acts(finished: Run) -> None:
    agent = clrl.load(finished.path)
    assert agent.act(np.zeros(23, np.float32), skill="press").shape == (4,)


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_same_seed_trains_the_same_agent(
    kind: str, whole: dict[str, Run], tmp_path: Path
) -> None:
    assert same_weights(whole[kind], clrl.train(PAIR, kind, out=tmp_path / "a", **OPTIONS[kind]))


def test_another_seed_trains_another_agent(whole: dict[str, Run], tmp_path: Path) -> None:
    assert not same_weights(whole["ppo"], clrl.train(PAIR, seed=1, out=tmp_path / "a", **PPO))


@pytest.mark.parametrize(("kind", "stop"), [("ppo", 1), ("ppo", 4), ("ppo", 9), ("sac", 40)])
def test_a_stopped_run_resumes_bit_for_bit(
    kind: str, stop: int, whole: dict[str, Run], tmp_path: Path, stopped: Stopped
) -> None:
    with stopped(stop):
        clrl.train(PAIR, kind, out=tmp_path / "cut", **OPTIONS[kind] | OFTEN)
    resumed = clrl.resume(tmp_path / "cut", quiet=True)
    assert same_weights(whole[kind], resumed)
    assert resumed.retention().success == whole[kind].retention().success


def test_a_killed_process_resumes_bit_for_bit(whole: dict[str, Run], tmp_path: Path) -> None:
    out = tmp_path / "cut"
    code = (
        "import clrl, clrl.trainer;"
        "clrl.trainer._PROBE_EPISODES = 2;"
        f"clrl.train({PAIR!r}, out={str(out)!r}, **{PPO | OFTEN!r})"
    )
    victim = subprocess.Popen([sys.executable, "-c", code])
    folder = out / "checkpoints"
    while not folder.exists() or len(checkpoint.steps(folder)) < 3:
        assert victim.poll() is None
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert same_weights(whole["ppo"], clrl.resume(out, quiet=True))


def test_resume_goes_on_from_the_last_good_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = clrl.train(PAIR, out=tmp_path / "run", **PPO | OFTEN)
    before = final_state(run)["policy"]
    newest = checkpoint.steps(run.checkpoints)[-1]
    with open(newest / "state.safetensors", "r+b") as file:
        file.seek(2000)
        file.write(b"garbage")
    resumed = clrl.resume(tmp_path / "run", quiet=True)
    after = final_state(resumed)["policy"]
    assert all(torch.equal(before[k], after[k]) for k in before)
    (said,) = caplog.messages
    assert said.startswith(f"checkpoint {newest}: state.safetensors does not match its sha256")
    assert (run.checkpoints / f"damaged-{newest.name}").is_dir()
    checkpoint.verify(newest)


@pytest.mark.parametrize("keep", [1, 3])
def test_so_many_checkpoints_within_a_skill_stay(keep: int, tmp_path: Path) -> None:
    run = clrl.train(PAIR, out=tmp_path / "run", **PPO | OFTEN, keep_checkpoints=keep)
    steps = [int(path.name) for path in checkpoint.steps(run.checkpoints)]
    last = [1536 - 128 * i for i in range(keep + 1)]  # a rollout has 128 steps
    assert steps == sorted({0, 768, *last})


def test_a_checkpoint_at_a_skills_end_holds_no_replay_buffer(whole: dict[str, Run]) -> None:
    assert all("buffer" not in checkpoint.read(p)[0]["agent"] for p in whole["sac"].finals())


def test_a_finished_training_keeps_no_agent_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents: list[weakref.ref[Any]] = []
    build = Run.build

    def building(self: Run, *args: Any) -> Any:
        agent = build(self, *args)
        agents.append(weakref.ref(agent))
        return agent

    monkeypatch.setattr(Run, "build", building)
    gc.disable()  # or it might come by chance
    try:
        clrl.train(PAIR, out=tmp_path / "run", **PPO)
        gone = [agent() is None for agent in agents]
    finally:
        gc.enable()
    assert gone == [True, True]  # one was built to check the options


def test_padded_spaces_hold_every_skill() -> None:
    mixed = make_curriculum(["arm-reach", "Reacher-v5"])
    assert mixed.observation_space.shape == (23,)
    assert mixed.action_space.shape == (4,)
    observation: Any = mixed.vec_env("Reacher-v5", 2).reset()
    assert observation.shape == (2, 23)
    assert not observation[:, 10:].any()


def test_a_nan_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clrl.agents import NumericalError
    from clrl.envs.arm import ArmSkill
    from clrl.envs.arm_skills import Press
    from clrl.envs.world import World

    def observe(self: Press, world: World) -> torch.Tensor:
        seen = ArmSkill.observe(self, world)
        return seen * torch.nan if world.n == PPO["worlds"] else seen

    monkeypatch.setattr(Press, "observe", observe)
    with pytest.raises(NumericalError, match="skill 'press': observation is not finite"):
        clrl.train(PAIR, out=tmp_path / "run", **PPO | {"episodes": 5})
    newest = checkpoint.newest_valid(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert checkpoint.info(newest)["skills"] == ["reach"]


def test_a_curriculum_survives_json() -> None:
    mixed = make_curriculum(["arm-reach", "Reacher-v5"])
    again = Curriculum.from_json(json.loads(json.dumps(mixed.to_json())))
    assert again.names == mixed.names
    assert again.steps == mixed.steps


class Goalless(Reach):
    """Its goals lack the worlds' dimension."""

    def goal(self, world: Any, mask: Any, random: torch.Tensor) -> torch.Tensor:
        """See `ArmSkill`."""
        return random.new_zeros(3)


@pytest.mark.parametrize(("goal", "found"), [(None, "got NoneType"), ([0.0, 0.0, 0.0], "got list")])
def test_a_goal_that_is_no_tensor_is_told(
    goal: Any, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Goalless, "goal", lambda *_: goal)
    with pytest.raises(ValueError, match=rf"goal must be a tensor of shape \(4, 3\), {found}"):
        Goalless().vec_env(4, threads=1).reset()


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    curriculum = Curriculum("goalless", [Goalless()])
    with pytest.raises(ValueError, match=r"'reach': goal must be a tensor of shape \(4, 3\), got"):
        clrl.train(curriculum, out=tmp_path / "run", **PPO)
    assert not list(tmp_path.iterdir())


class Still(Protection):
    """Its hook has another name, so that nothing ever calls it."""

    def updates(self, learner: Any) -> None:
        """Never called."""


def test_a_protection_without_a_hook_is_refused(tmp_path: Path) -> None:
    name = "tests.clrl.test_train:Still"
    with pytest.raises(ValueError, match=f"'{name}' does nothing: it has no hook, such as"):
        clrl.train(PAIR, out=tmp_path / "run", **PPO | {"protect": [name]})
    assert not list(tmp_path.iterdir())


def test_a_protection_need_not_take_a_seed(tmp_path: Path) -> None:
    name = "tests.clrl.test_train:Plain"
    run = prepare(PAIR, protect=[name], out=tmp_path / "run")
    assert type(run.build().protections[0]).__name__ == "Plain"


class Plain(Protection):
    """Has no options."""

    def __init__(self) -> None:
        super().__init__()

    def update(self, learner: Any) -> None:
        """See `Protection`."""
