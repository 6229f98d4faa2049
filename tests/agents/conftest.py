"""Agents on the toy task, small enough to train in a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

import clrl
from clrl.agents import ContinualPPO, ContinualSAC, Protection
from clrl.envs.side_by_side import SideBySide
from clrl.run import Run
from tests.agents.toy import PointVecEnv

Maker = Callable[..., Any]

PPO_OPTIONS: dict[str, Any] = {"n_steps": 20, "batch_size": 10, "n_epochs": 2, "device": "cpu"}
SAC_OPTIONS: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 16,
    "buffer_size": 500,
    "device": "cpu",
}
NETS = {"net_arch": [16, 16]}


def make_agent(
    kind: str,
    protect: list[Protection] | None = None,
    env: Any = None,
    updates: str = "fast",
    **policy: Any,
) -> Any:
    """A PPO or SAC of the toy task, seed 0."""
    env = env or PointVecEnv()
    options: dict[str, Any] = {
        "policy_kwargs": NETS | policy,
        "seed": 0,
        "protect": protect or [],
        "updates": updates,
    }
    if kind == "ppo":
        return ContinualPPO("MlpPolicy", env, **PPO_OPTIONS, **options)
    return ContinualSAC("MlpPolicy", env, **SAC_OPTIONS, **options)


def trained_on(agent: Any, name: str, sign: float = 1.0, steps: int = 80) -> Any:
    """The agent after one more skill of the toy task."""
    agent.begin_skill(name, PointVecEnv(sign=sign), steps)
    agent.learn(steps, reset_num_timesteps=False)
    agent.end_skill()
    return agent


def resumed_twins(make: Callable[[], Any]) -> tuple[Any, Any]:
    """An agent that learned two skills at a stretch, and one that took over within the second."""
    env = PointVecEnv(sign=-1.0)
    agent = trained_on(make(), "near")
    agent.begin_skill("mirror", env, 160)
    agent.learn(80, reset_num_timesteps=False)
    copied = tree_map(
        lambda v: v.clone() if isinstance(v, torch.Tensor) else v, agent.train_state()
    )
    env_state = env.get_state()
    agent.learn(80, reset_num_timesteps=False)
    agent.end_skill()
    other, other_env = make(), PointVecEnv(sign=-1.0, seed=9)
    other_env.reset()
    other.load_train_state(copied)
    other.set_env(other_env, force_reset=False)
    other_env.set_state(env_state)
    other.learn(80, reset_num_timesteps=False)
    other.end_skill()
    return agent, other


def tiny_run(out: Path, protect: dict[str, dict[str, Any]], agent: str = "ppo") -> Run:
    """A run of two arm skills that takes a second."""
    short: dict[str, Any] = {
        "ppo": {"n_steps": 8, "batch_size": 32, "n_epochs": 1},
        "sac": {"learning_starts": 64, "gradient_steps": 1, "batch_size": 16},
    }[agent]
    short |= {"steps_per_skill": 512, "horizon": 10, "episodes": 4, "worlds": 8, "threads": 1}
    return clrl.train(["arm-reach", "arm-press"], agent, protect, out=out, quiet=True, **short)


def side_by_side(*worlds: int) -> SideBySide:
    """The toy task under one sign after another, so many worlds of each."""
    return SideBySide([PointVecEnv(n, (-1.0) ** i, seed=i) for i, n in enumerate(worlds)])


def begun(agent: Any, skills: int) -> Any:
    """A joint agent whose skills are begun."""
    for i in range(skills):
        agent.begin_skill(f"skill {i}", steps=1000)
    return agent


def same(a: Any, b: Any) -> bool:
    """Whether two agents have the same policy, to the bit."""
    pairs = zip(a.policy.state_dict().values(), b.policy.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def reaches(agent: Any, skills: int = 2) -> bool:
    """Whether a joint agent moves the point to the origin in each skill."""
    for i in range(skills):
        env = PointVecEnv(50, (-1.0) ** i, seed=7)
        observation = env.reset()
        for _ in range(9):
            env.step_async(agent.act(observation, f"skill {i}"))
            observation = env.step_wait()[0]
        if np.abs(env.position).sum(axis=1).mean() >= 0.2:  # it starts 1 away
            return False
    return True


@pytest.fixture(params=["ppo", "sac"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both algorithms."""
    name: str = request.param
    return name
