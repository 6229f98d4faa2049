"""Episodes of worlds in lockstep: observation, policy, physics and reward on the worlds' device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from clrl.envs.episodes import Episodes, check_shape
from clrl.envs.vec_env import WorldVecEnv

Array = NDArray[Any]
Actor = BasePolicy | Callable[[Array], Array]


def run(
    env: WorldVecEnv, actor: Actor, rounds: int, seed: int, deterministic: bool
) -> tuple[Array, Array]:
    """Run one episode in every world, as often as there are rounds.

    Args:
        env: Worlds of one skill, in that skill's own spaces.
        actor: A policy, which is moved to the worlds' device for the time, or a function on
            arrays, whose observations and actions are copied at every step.
        rounds: How often. The worlds go on to the next seeds.
        seed: Of the first world in the first round.
        deterministic: Act by the mean of the policy.

    Returns:
        Successes and returns, (rounds * worlds,) each, by seed.

    Raises:
        FloatingPointError: an observation or action is not finite.
        ValueError: actions have another shape.
        CapacityError: a world had more contacts than there is room for.
    """
    results = []
    with _acting(actor, deterministic, env.episodes.world.device) as act:
        for i in range(rounds):
            env.seed(seed + i * env.num_envs)
            results.append(_round(env.episodes, act))
    success, returns = zip(*results, strict=True)
    return np.concatenate(success), np.concatenate(returns)


@torch.inference_mode()
def _round(episodes: Episodes, act: Callable[[Tensor], Tensor]) -> tuple[Array, Array]:
    """One episode in every world; all end together, and only then is the device waited for."""
    space = episodes.skill.action_space
    observation = episodes.reset()
    finite, moves = observation.isfinite().all(), observation.new_ones((), dtype=torch.bool)
    for _ in range(episodes.skill.horizon):
        try:
            action = act(observation)
        except ValueError:  # torch says in other words what a policy makes of NaN
            if observation.isfinite().all():
                raise
            raise FloatingPointError("an observation is not finite") from None
        check_shape(action.shape, (episodes.n, *space.shape))
        observation = episodes.step(action).observation
        finite &= observation.isfinite().all()
        moves &= action.isfinite().all()
    episodes.check()
    for what, sound in (("observation", finite), ("action", moves)):
        if not sound:
            raise FloatingPointError(f"an {what} is not finite")
    return episodes.succeeded.cpu().numpy().copy(), episodes.returns.cpu().numpy().copy()


@contextmanager
def _acting(
    actor: Actor, deterministic: bool, device: torch.device
) -> Iterator[Callable[[Tensor], Tensor]]:
    if not isinstance(actor, BasePolicy):
        function = actor
        yield lambda seen: torch.as_tensor(function(seen.cpu().numpy()), device=device)
        return
    home = actor.device
    actor.to(device)
    try:
        yield forward(actor, deterministic)
    finally:
        actor.to(home)


def forward(policy: BasePolicy, deterministic: bool) -> Callable[[Tensor], Tensor]:
    """What SB3's `predict` does for a batch of vectors, on tensors; its modes are set once."""
    policy.set_training_mode(False)
    space = policy.action_space
    assert isinstance(space, spaces.Box)
    low, high = (torch.as_tensor(b, device=policy.device) for b in (space.low, space.high))

    def act(observation: Tensor) -> Tensor:
        action = policy._predict(observation, deterministic)
        if policy.squash_output:
            return low + 0.5 * (action + 1.0) * (high - low)
        return action.clamp(low, high)

    return act
