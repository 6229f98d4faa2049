"""Environments whose steps give tensors on a device, and what their ended episodes tell."""

import time
from typing import Any, Protocol

import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch import Tensor


class Step(Protocol):
    """What a step gave.

    Attributes:
        observation: After the step, (n, obs), float32; where an episode ended, its last one.
        reward: (n,).
        done: Whether a time limit ended the episode, (n,), bool, on the CPU.
    """

    @property
    def observation(self) -> Tensor: ...  # noqa: D102
    @property
    def reward(self) -> Tensor: ...  # noqa: D102
    @property
    def done(self) -> Tensor: ...  # noqa: D102


class Ended(Protocol):
    """Episodes that ended together, tensors (k,).

    Attributes:
        worlds: Where, on the CPU.
        lengths: Their steps, on the CPU.
        returns: Sums of their rewards, on the device.
        succeeded: Whether they succeeded, on the device.
    """

    @property
    def worlds(self) -> Tensor: ...  # noqa: D102
    @property
    def lengths(self) -> Tensor: ...  # noqa: D102
    @property
    def returns(self) -> Tensor: ...  # noqa: D102
    @property
    def succeeded(self) -> Tensor: ...  # noqa: D102


class TensorEnv(Protocol):
    """A VecEnv that steps on tensors. Episodes end at time limits only.

    Attributes:
        num_envs: Its worlds, n.
        device: "cpu" where arrays cost no copy and SB3's own way is as good.
        action_space: Of each world.
        ended: The episodes that ended in the latest step that ended any.
    """

    num_envs: int
    device: str
    action_space: spaces.Space[Any]

    @property
    def ended(self) -> Ended: ...  # noqa: D102

    def step_tensor(self, action: Tensor) -> tuple[Step, Tensor]:
        """Step with actions (n, act); what it gave, and observations to act on next, (n, obs)."""
        ...


def tensor_env(env: Any) -> TensorEnv | None:
    """The environment where its data should stay on a device, or None.

    A wrapper passes on the attributes of what it wraps, but changes what goes through it.
    """
    if isinstance(env, VecEnvWrapper) or not hasattr(env, "step_tensor") or env.device == "cpu":
        return None
    found: TensorEnv = env
    return found


def bounds(space: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Least and largest action, (act,) each."""
    low, high = (torch.as_tensor(bound) for bound in (space.low, space.high))
    return low.to(device, non_blocking=True), high.to(device, non_blocking=True)


def record_episodes(agent: Any, ended: list[Ended]) -> None:
    """Tell SB3's buffers of episodes that ended, waiting for the device once."""
    if not ended:
        return
    seconds = (time.time_ns() - agent.start_time) / 1e9
    numbers = torch.stack(
        (
            torch.cat([e.returns.double() for e in ended]),
            torch.cat([e.succeeded.double() for e in ended]),
        )
    )
    totals, successes = numbers.tolist()
    lengths = torch.cat([e.lengths for e in ended]).tolist()
    agent.ep_success_buffer.extend(success > 0.0 for success in successes)
    agent.ep_info_buffer.extend(
        {"r": total, "l": length, "t": seconds}
        for total, length in zip(totals, lengths, strict=True)
    )
