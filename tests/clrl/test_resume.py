"""A run that was killed and resumed ends as one that nobody disturbed, to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dying import die, fork

import clrl
from benchmarks.kill_storm import final, same
from clrl.envs.gym_skill import GymSkill
from clrl.run import Run

AGENTS: dict[str, dict[str, Any]] = {
    "ppo": {"steps_per_skill": 256, "n_steps": 16, "batch_size": 32, "n_epochs": 1},
    "sac": {"steps_per_skill": 72, "learning_starts": 24, "train_freq": 3, "gradient_steps": 2},
}
COMMON: dict[str, Any] = {"worlds": 4, "threads": 1, "episodes": 4, "horizon": 20, "quiet": True}
ALL = ("ewc", "distill", "replay")
ARM, CW = ("arm-reach", "arm-press"), ("cw-push", "cw-hammer")
GYM = ("Reacher-v5", "Pusher-v5")
# Rehearsed at every update, so that each has its part in a budget this small.
OPTIONS: dict[str, dict[str, Any]] = {
    "ewc": {},
    "distill": {"every": 1},
    "replay": {"every": 1, "capacity": 100},
}
CASES = [
    *((ARM, agent, protect) for agent in AGENTS for protect in [*((p,) for p in ALL), ALL]),
    *((skills, agent, ALL) for agent in AGENTS for skills in (CW, GYM)),
]


def train(out: Path, skills: tuple[str, ...], agent: str, protect: tuple[str, ...]) -> Run:
    options = {"batch_size": 16, "checkpoint_seconds": 0.0} | COMMON | AGENTS[agent]
    return clrl.train(list(skills), agent, {p: OPTIONS[p] for p in protect}, out=out, **options)


def killed_after(saves: int, act: Any) -> None:
    """Act in a child process, which is killed within the rollout after that many checkpoints."""

    def acting() -> None:
        save, count = Run.save_checkpoint, 0

        def saving(self: Run, *args: Any) -> None:
            nonlocal count
            if count == saves:
                die()
            save(self, *args)
            count += 1

        Run.save_checkpoint = saving  # type: ignore[assignment, method-assign]
        act()

    assert fork(acting) is not None


@pytest.mark.parametrize(("skills", "agent", "protect"), CASES, ids=str)
def test_killed_and_resumed_in_new_processes_is_undisturbed(
    skills: tuple[str, ...], agent: str, protect: tuple[str, ...], tmp_path: Path
) -> None:
    whole = train(tmp_path / "whole", skills, agent, protect)
    cut = tmp_path / "cut"
    killed_after(3, lambda: train(cut, skills, agent, protect))
    for saves in (2, 3):  # within the first skill and within the second
        killed_after(saves, lambda: clrl.resume(cut, quiet=True))
    assert fork(lambda: clrl.resume(cut, quiet=True)) is None
    resumed = Run.open(cut)
    assert same(final(resumed), final(whole))
    assert resumed.retention().success == whole.retention().success
    assert resumed.retention().returns == whole.retention().returns


@pytest.mark.parametrize("key", ["Ant-v5", "HalfCheetah-v5", "Humanoid-v5", "Pusher-v5"])
def test_a_gymnasium_environment_goes_on_elsewhere_to_the_bit(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs warnings about old models where it runs
    skill = GymSkill(key, success_return=1.0)
    random = np.random.default_rng(0)
    here, there = (skill.vec_env(2, seed=seed) for seed in (0, 5))
    here.reset()
    actions = random.uniform(-1.0, 1.0, (40, 2, *skill.action_space.shape)).astype(np.float32)
    for action in actions[:13]:
        here.step(action)
    there.set_state(here.get_state())
    for action in actions[13:]:
        for one, other in zip(here.step(action)[:3], there.step(action)[:3], strict=True):
            np.testing.assert_array_equal(one, other)
    assert same(here.get_state(), there.get_state())
