"""Agents on the toy task, small enough to train in a second."""

from collections.abc import Callable
from typing import Any

import pytest

from clrl.agents import ContinualPPO, ContinualSAC, Protection
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


@pytest.fixture(params=["ppo", "sac"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both algorithms."""
    name: str = request.param
    return name
