"""Where physics diverges a step is taken back, counted and kept, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
import torch

from clrl.envs import Curriculum, GymSkill, make_skill
from clrl.envs.arm_skills import Reach
from clrl.envs.world import World
from clrl.eval.evaluator import evaluate_skill

STEPS = 12


class Bursts(Reach):
    """A force no integrator survives, in two of the worlds, some steps into an episode."""

    name = "bursts"
    horizon = 50

    def act(self, world: World, action: torch.Tensor) -> None:
        super().act(world, action)
        late = world.field("time") > 0.99 * STEPS * self.dt
        late &= torch.arange(world.n) % 4 == 1
        world.field("xfrc_applied")[late] = 1e18


def _stepped(env: Any, action: Any) -> Any:
    return env.step(action)


def actions(n: int, count: int) -> Any:
    return np.random.default_rng(0).uniform(-1, 1, (count, n, 4)).astype(np.float32)


def test_the_worlds_that_diverge_end_their_episodes_and_the_others_do_not_notice() -> None:
    calm, bursts = (skill.vec_env(8, seed=3, threads=2) for skill in (Reach(), Bursts()))
    assert np.array_equal(calm.reset(), bursts.reset())
    for step, action in enumerate(actions(8, 20)):
        wanted: Any = calm.step(action)
        got: Any = bursts.step(action)
        others = [0, 2, 3, 4, 6, 7]
        assert np.array_equal(wanted[0][others], got[0][others])
        assert np.isfinite(got[0]).all()
        assert np.isfinite(got[1]).all()
        assert got[2].tolist() == [step == STEPS and i in (1, 5) for i in range(8)]
    assert bursts.divergences.count == 2
    assert calm.divergences.count == 0


def test_a_diverged_world_ends_with_what_was_seen_before() -> None:
    env = Bursts().vec_env(2, seed=3, threads=1)
    seen: Any = env.reset()
    for action in actions(2, STEPS + 1):
        before = seen
        seen, _, done, infos = env.step(action)
    assert done.tolist() == [False, True]
    assert infos[1]["TimeLimit.truncated"]
    assert np.allclose(infos[1]["terminal_observation"], before[1])
    assert infos[1]["episode"]["l"] == STEPS + 1


def test_what_led_there_can_be_done_again() -> None:
    env = Bursts().vec_env(2, seed=3, threads=1)
    env.reset()
    for action in actions(2, STEPS + 1):
        env.step(action)
    (kept,) = env.divergences.take()
    assert (kept.world, kept.elapsed) == (1, STEPS + 1)
    again = Bursts().vec_env(2, seed=9, threads=1)
    again.reset()
    again.episodes.world.load_state(kept.facts["state"].repeat(2, 1))
    again.step(kept.facts["action"].repeat(2, 1).numpy())
    assert again.divergences.count == 2  # its forces are part of the state
    assert not env.divergences.kept


def test_only_the_first_few_are_kept() -> None:
    env = Bursts().vec_env(40, seed=3, threads=1)
    env.reset()
    for action in actions(40, STEPS + 1):
        env.step(action)
    assert env.divergences.count == 10
    assert len(env.divergences.take()) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e12])
@pytest.mark.parametrize("field", ["qpos", "qvel", "ctrl"])
def test_what_cannot_be_is_never_simulated_in_silence(field: str, value: float) -> None:
    class Broken(Reach):
        def act(self, world: World, action: torch.Tensor) -> None:
            super().act(world, action)
            world.field(field)[1, 0] = value

    env = Broken().vec_env(3, seed=0, threads=1)
    env.reset()
    observation, reward, done, _ = _stepped(env, np.zeros((3, 4), np.float32))
    assert env.divergences.count == 1 or (field == "ctrl" and value == 1e12)  # MuJoCo clamps it
    assert done[1] == bool(env.divergences.count)
    assert np.isfinite(observation).all()
    assert np.isfinite(reward).all()


def test_an_evaluation_says_how_often_it_was(caplog: pytest.LogCaptureFixture) -> None:
    def still(observation: Any) -> Any:
        return np.zeros((len(observation), 4), np.float32)

    curriculum = Curriculum("one", [Bursts()])
    score = evaluate_skill(still, curriculum, "bursts", episodes=8, threads=1)
    assert np.isfinite(score.returns).all()
    assert "physics diverged" in caplog.text


def test_a_gymnasium_environment_that_diverges_ends_its_episode() -> None:
    env = GymSkill("Reacher-v5", horizon=50).vec_env(2, seed=0)
    env.reset()
    env.step(np.zeros((2, 2), np.float32))
    before: Any = env.step(np.zeros((2, 2), np.float32))[0]
    env.envs[1].unwrapped.data.qvel[0] = 1e12  # type: ignore[attr-defined]
    _, reward, done, infos = env.step(np.zeros((2, 2), np.float32))
    assert done.tolist() == [False, True]
    assert np.isfinite(reward).all()
    assert np.array_equal(infos[1]["terminal_observation"], before[1])
    (kept,) = env.divergences.take()
    assert kept.world == 1
    for _ in range(3):
        assert not env.step(np.zeros((2, 2), np.float32))[2].any()
    assert env.divergences.count == 1


@pytest.mark.parametrize("skill", ["arm-lift", "cw-hammer"])
def test_ordinary_skills_do_not_diverge(skill: str) -> None:
    env: Any = make_skill(skill).vec_env(16, seed=0, threads=2, stagger=True)
    env.reset()
    for action in actions(16, 60):
        env.step(action)
    assert env.divergences.count == 0
