"""Evaluation on a device, on Warp's CPU device: the CPU's answer, without leaving tensors."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC

from clrl.agents import make_agent
from clrl.envs import Curriculum, GymSkill, World, make_curriculum
from clrl.envs.arm_skills import Reach
from clrl.eval import evaluate_skill, evaluator, wilson

pytest.importorskip("mujoco_warp")
REACH = make_curriculum("arm-reach").under(horizon=40)
DEVICES = ("cpu", "warp:cpu")


def towards_the_goal(observation: Any) -> Any:
    move = np.clip(observation[:, 20:23] / 0.04, -1, 1)
    return np.concatenate((move, np.zeros((len(move), 1))), axis=1).astype(np.float32)


def half_hearted(observation: Any) -> Any:
    """Reaches about half of the goals, those with more room on the left."""
    return towards_the_goal(observation) * (observation[:, 18:19] > 0)


def test_both_engines_retain_alike() -> None:
    here, there = (
        evaluate_skill(half_hearted, REACH, "reach", episodes=60, device=d) for d in DEVICES
    )
    low, high = wilson(int(here.success.sum()), 60)
    assert 0.2 < here.rate < 0.8
    assert low <= there.rate <= high
    np.testing.assert_allclose(there.returns, here.returns, rtol=1e-2, atol=0.05)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_sb3_policies_act_on_tensors_as_they_predict(algorithm: Any) -> None:
    model = algorithm("MlpPolicy", REACH.vec_env("reach", 1), device="cpu", seed=0)
    with torch.no_grad():  # actions beyond the bounds, which must be clipped
        for parameter in model.policy.parameters():
            parameter *= 3.0
    here, there = (
        evaluate_skill(model, REACH, "reach", episodes=4, device=device) for device in DEVICES
    )
    np.testing.assert_allclose(there.returns, here.returns, rtol=1e-2)
    assert model.policy.device.type == "cpu"


def test_an_agent_acts_with_the_head_of_the_skill() -> None:
    agent: Any = make_agent(
        "ppo",
        observation_space=REACH.observation_space,
        action_space=REACH.action_space,
        worlds=4,
        protect={},
        seed=0,
        device="cpu",
        policy_kwargs={"normalize": True},
    )
    for name in ("reach", "other"):
        agent.begin_skill(name)
    with torch.no_grad():
        agent.policy.action_net.layers[0].bias.fill_(0.5)
    for actor in (agent, agent.for_skill("other")):
        here, there = (
            evaluate_skill(actor, REACH, "reach", episodes=4, device=device) for device in DEVICES
        )
        np.testing.assert_allclose(there.returns, here.returns, rtol=1e-2)
    first = evaluate_skill(agent, REACH, "reach", episodes=4, device="warp:cpu")
    assert not np.allclose(first.returns, there.returns, rtol=1e-2)


def test_rounds_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate_skill(towards_the_goal, REACH, "reach", episodes=12, device="warp:cpu")
    monkeypatch.setattr(evaluator, "_WORLDS_ON_DEVICE", 5)
    split = evaluate_skill(towards_the_goal, REACH, "reach", episodes=12, device="warp:cpu")
    np.testing.assert_allclose(split.returns, whole.returns, rtol=1e-3)
    assert whole.success.all()


class Blind(Reach):
    """Sees nothing that is a number."""

    def observe(self, world: World) -> torch.Tensor:
        return super().observe(world) * torch.nan


@pytest.mark.parametrize(
    ("skills", "message"),
    [
        ([Blind()], "evaluation of skill 'reach': an observation is not finite"),
        ([GymSkill("Pendulum-v1", success_return=-200.0)], "environment: use device cpu"),
        (["arm-reach", "cw-push"], "different spaces are evaluated on the CPU"),
    ],
)
def test_what_cannot_run_there_is_refused(skills: list[Any], message: str) -> None:
    curriculum = Curriculum("own", skills)
    with pytest.raises(ValueError, match=message):
        evaluate_skill(half_hearted, curriculum, curriculum.names[0], episodes=2, device="warp:cpu")
