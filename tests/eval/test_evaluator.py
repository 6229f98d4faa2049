"""The evaluator: any policy, equal episodes, and the same answer however it is batched."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import clrl  # noqa: F401  registers the skills
from clrl.envs import make_curriculum
from clrl.eval import Evaluator, evaluate, evaluate_skill, evaluator

REACH = make_curriculum("arm-reach")


def towards_the_goal(observation: Any) -> Any:
    """Moves the hand straight to the goal; observation 20-22 is goal minus hand."""
    move = np.clip(observation[:, 20:23] / 0.04, -1, 1)
    return np.concatenate((move, np.zeros((len(move), 1))), axis=1).astype(np.float32)


def nowhere(observation: Any) -> Any:
    return np.zeros((len(observation), 4), np.float32)


def test_an_oracle_always_succeeds_and_standing_still_never() -> None:
    assert evaluate_skill(towards_the_goal, REACH, "reach", episodes=50).rate == 1.0
    assert evaluate_skill(nowhere, REACH, "reach", episodes=50).rate <= 0.02


def test_the_batch_does_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate_skill(towards_the_goal, REACH, "reach", episodes=12, threads=2)
    assert len(whole.returns) == 12
    one = evaluate_skill(towards_the_goal, REACH, "reach", episodes=1, seed=1003)
    assert one.returns[0] == whole.returns[3]
    monkeypatch.setattr(evaluator, "_WORLDS", 5)
    split = evaluate_skill(towards_the_goal, REACH, "reach", episodes=12, threads=1)
    assert len(split.returns) == 12
    assert np.array_equal(split.returns, whole.returns)


def test_it_agrees_with_sb3_on_an_sb3_policy() -> None:
    env = Monitor(gym.make("clrl/arm-reach-v0"))
    policy = PPO("MlpPolicy", env, device="cpu", seed=0)
    ours = evaluate_skill(policy, REACH, "reach", episodes=3, seed=7)
    theirs = []
    for i in range(3):
        env.reset(seed=7 + i)
        # evaluate_policy resets once more without a seed, so that its episode is the next one
        env.unwrapped.episodes._episode.zero_()  # type: ignore[attr-defined]
        theirs.append(evaluate_policy(policy, env, n_eval_episodes=1)[0])
    np.testing.assert_allclose(ours.returns, theirs, rtol=1e-5)


class ShortWhenLost(gym.Env[Any, Any]):
    """Half of the episodes fail after one step; the others succeed after ten."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.lost, self.clock = bool(self.np_random.integers(2)), 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        over = self.clock == (1 if self.lost else 10)
        return np.zeros(1, np.float32), 0.0, over, False, {"success": over and not self.lost}


def test_short_episodes_have_no_more_weight() -> None:
    make: Any = ShortWhenLost
    gym.register("ShortWhenLost-v0", entry_point=make, max_episode_steps=20)
    try:
        curriculum = make_curriculum(["ShortWhenLost-v0"])
        score = evaluate_skill(
            lambda o: np.zeros((len(o), 1), np.float32),
            curriculum,
            "ShortWhenLost-v0",
            episodes=600,
        )
    finally:
        del gym.registry["ShortWhenLost-v0"]
    assert score.rate == pytest.approx(0.5, abs=0.08)  # counting whoever ends first gives less


class Flicker(gym.Env[Any, Any]):
    """Accomplished at the first of three steps and not at the last."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        return np.zeros(1, np.float32), 0.0, False, False, {"success": self.clock == 1}


@pytest.mark.parametrize(("rule", "rate"), [("any-step", 1.0), ("last-step", 0.0)])
def test_the_rule_of_success_holds_for_gymnasium_ids_too(rule: str, rate: float) -> None:
    make: Any = Flicker
    gym.register("Flicker-v0", entry_point=make, max_episode_steps=3)
    try:
        curriculum = make_curriculum(["Flicker-v0"]).under(success_rule=rule)
        assert curriculum.protocol == {"horizon": 3, "success": rule}
        act = lambda o: np.zeros((len(o), 1), np.float32)  # noqa: E731
        assert evaluate_skill(act, curriculum, "Flicker-v0", episodes=2).rate == rate
    finally:
        del gym.registry["Flicker-v0"]


class Counting(gym.Env[Any, Any]):
    """Pays what its latest seed was, in episodes of one to three steps."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seen, self.left = seed or -1, 1 + (seed or 0) % 3
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.zeros(1, np.float32), float(self.seen), self.left == 0, False, {}


def test_every_episode_starts_from_its_own_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    gym.register("Counting-v0", f"{__name__}:Counting", max_episode_steps=5)
    monkeypatch.setattr(evaluator, "_WORLDS", 4)
    curriculum = make_curriculum("Counting-v0")
    name = curriculum.names[0]
    zero = lambda seen: np.zeros((len(seen), 1), np.float32)  # noqa: E731
    score = evaluate_skill(zero, curriculum, name, episodes=10, seed=50)
    seeds = np.arange(50, 60)
    assert score.returns.tolist() == (seeds * (1 + seeds % 3)).tolist()


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (6, 99), (6, 3), (4,)])
def test_actions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    wrong = lambda seen: np.zeros(shape, np.float32)  # noqa: E731
    with pytest.raises(ValueError, match=r"skill 'reach': actions must have shape \(6, 4\), got"):
        evaluate_skill(wrong, REACH, "reach", episodes=6)


def test_every_skill_is_scored() -> None:
    scores = evaluate(nowhere, make_curriculum("arm3"), episodes=2)
    assert list(scores) == ["push", "dial", "drawer"]


@pytest.mark.parametrize(
    ("actor", "options", "message"),
    [
        (nowhere, {"episodes": 0}, "episodes must be >= 1, got 0"),
        ("policy", {}, "cannot act with str"),
        (nowhere, {"skill": "fly"}, "no skill 'fly'; it has reach"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    actor: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_skill(actor, REACH, **{"skill": "reach"} | options)


def test_worlds_that_were_used_before_give_the_same_score() -> None:
    kept = Evaluator(REACH, episodes=12, threads=1)
    first = kept.score(towards_the_goal, "reach")
    kept.score(nowhere, "reach", seed=5)
    again = kept.score(towards_the_goal, "reach")
    assert np.array_equal(first.returns, again.returns)
    fresh = evaluate_skill(towards_the_goal, REACH, "reach", episodes=12)
    assert np.array_equal(first.returns, fresh.returns)


def test_the_straight_way_through_a_policy_is_that_of_its_predict() -> None:
    policy = PPO("MlpPolicy", gym.make("clrl/arm-reach-v0"), device="cpu", seed=0)

    def predicted(observation: Any) -> Any:
        return policy.predict(observation, deterministic=True)[0]

    straight = evaluate_skill(policy, REACH, "reach", episodes=4)
    assert np.array_equal(
        straight.returns, evaluate_skill(predicted, REACH, "reach", episodes=4).returns
    )
