"""Whenever it is killed or asked to stop, a run is whole and goes on."""

import itertools
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dying import fork

import clrl
from benchmarks.kill_storm import (
    AGENTS,
    TINY,
    Moment,
    final,
    same,
    storm,
    storm_exports,
    undisturbed,
)
from clrl import cli, sealed, trainer
from clrl.envs.vec_env import WorldVecEnv
from clrl.interrupt import Interrupted
from clrl.lock import LOCK, lock
from clrl.measure import evaluate_run
from clrl.run import Run

# The benchmark kills before and after every call that reaches the disk, and more.
MOMENTS = {
    "ppo": [
        Moment("random", 0.4),
        Moment("checkpoint", 7, nth=2),
        Moment("checkpoint", 8, after=True, nth=3),
        Moment("evaluation", 50),
        Moment("checkpoint", 13, nth=4),
        Moment("figure and result", 2, after=True),
        Moment("figure and result", 6),
    ],
    "sac": [Moment("checkpoint", 4, nth=7), Moment("evaluation", 90), Moment("random", 0.5)],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("whole")
    return {agent: undisturbed(folder, agent) for agent in AGENTS}


def train(out: Path, **options: Any) -> Run:
    return clrl.train(agent="ppo", out=out, **TINY | AGENTS["ppo"] | options)


def interrupting(signals: list[signal.Signals]) -> None:
    """Send this process signals within the fifth rollout of a run, from now on."""
    step, count = WorldVecEnv.step_wait, itertools.count()

    def stepped(self: WorldVecEnv) -> Any:
        if next(count) == 70:  # a rollout has 16
            for each in signals:
                os.kill(os.getpid(), each)
        return step(self)

    WorldVecEnv.step_wait = stepped  # type: ignore[method-assign]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_storm_of_kills_loses_nothing(agent: str, whole: dict[str, Run], tmp_path: Path) -> None:
    outcome = storm(tmp_path, agent, MOMENTS[agent], whole[agent])
    assert sum(outcome.kills.values()) >= len(MOMENTS[agent]) - 1  # at random, one may be late
    assert outcome.equal == outcome.runs > 0
    assert (outcome.lost, outcome.corrupted, outcome.backwards) == (0, 0, 0)


def test_killed_exports_leave_a_whole_bundle_or_none(whole: dict[str, Run], tmp_path: Path) -> None:
    moments = [Moment("export", 6), Moment("export", 18), Moment("export", 18, after=True)]
    outcome = storm_exports(tmp_path, moments, whole["ppo"])
    assert outcome.kills["export"] == outcome.equal == len(moments)
    assert outcome.corrupted == 0


@pytest.mark.parametrize(("asked", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_first_and_says_how_to_go_on(
    asked: signal.Signals,
    status: int,
    whole: dict[str, Run],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    seldom = TINY | AGENTS["ppo"] | {"checkpoint_seconds": 1000.0}
    for name in ("curriculum", "protect", "quiet", "horizon", "steps_per_skill"):
        del seldom[name]

    def act() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
        interrupting([asked])
        trainer.train = partial(trainer.train, **seldom)
        given: tuple[str, ...] = ("--protect", "ewc", "distill", "replay")
        given += ("--horizon", "16", "--steps-per-skill", "384", "--out", str(out), "--json")
        with pytest.raises(SystemExit) as stop:
            cli.main(["train", "arm-reach,arm-press", *given])
        os._exit(stop.value.code)  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match=f"a child failed with status {status}"):
        fork(act)
    newest = max(int(path.name) for path in (out / "checkpoints").iterdir())
    assert newest == 5 * 64  # at the end of that rollout
    said = capfd.readouterr().err
    assert said == f"clrl: stopped and saved at step {newest}; go on with `clrl resume {out}`\n"
    assert same(final(clrl.resume(out, quiet=True)), final(whole["ppo"]))


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def act() -> None:
        interrupting([signal.SIGTERM, signal.SIGTERM])
        with pytest.raises(Interrupted, match="stopped at once"):
            train(tmp_path / "run", checkpoint_seconds=1000.0)

    assert fork(act) is None
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000000"]


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(
    whole: dict[str, Run], tmp_path: Path
) -> None:
    run = train(tmp_path / "run")

    def refused(holder: int) -> None:
        with pytest.raises(BlockingIOError) as caught:
            clrl.resume(run.path)
        assert str(caught.value) == (
            f"{run.path} is in use by process {holder}; wait for it, or stop it"
        )
        evaluate_run(run, episodes=2, quiet=True)  # whoever only reads is free
        clrl.load(run.path)
        os._exit(0)

    with lock(run.path):
        assert fork(partial(refused, os.getpid())) is None

    def die_holding(act: Callable[[], None]) -> None:
        with lock(run.path):
            act()

    assert fork(partial(die_holding, lambda: os.kill(os.getpid(), signal.SIGKILL))) is not None
    assert (run.path / LOCK).read_text().strip().isdigit()
    clrl.resume(run.path, quiet=True)


def test_a_folder_is_removed_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "000000001"
    folder.mkdir()
    (folder / "file").write_text("")

    def die_within(path: Path) -> None:
        assert not folder.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", die_within)
        with pytest.raises(KeyboardInterrupt):
            sealed.remove(folder)
    assert len(sealed.clean(tmp_path)) == 1
    assert not list(tmp_path.iterdir())
