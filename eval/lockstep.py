"""Episodes of worlds in lockstep: observation, policy, physics and reward on the worlds' device."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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
Steps = Generator[None, None, tuple[Array, Array]]


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
    device = env.episodes.world.device
    with acting(actor, deterministic, device) as act:
        return in_turns([steps(env, act, rounds, seed)], device)[0]


def in_turns(works: Sequence[Steps], device: torch.device) -> list[tuple[Array, Array]]:
    """Results of several `steps`, which take turns step by step.

    On a GPU each has a stream of its own: what 1,000 worlds do in one kernel fills a part of it,
    and one kernel waits for another, so that skills run beside each other in the time of few.
    """
    results: list[Any] = [None] * len(works)
    going_on = dict(enumerate(works))
    with torch.inference_mode(), _streams(device, len(works)) as streams:
        while going_on:
            for i, work in [*going_on.items()]:
                with streams[i]:
                    try:
                        next(work)
                    except StopIteration as end:
                        results[i] = end.value
                        del going_on[i]
    return results


@contextmanager
def _streams(device: torch.device, count: int) -> Iterator[list[Any]]:
    """What to work within, in turn; what comes after waits for all of it."""
    if device.type != "cuda" or count == 1:
        yield [nullcontext()] * count
        return
    here = torch.cuda.current_stream(device)
    own = [torch.cuda.Stream(device) for _ in range(count)]
    for stream in own:
        stream.wait_stream(here)
    yield [torch.cuda.stream(stream) for stream in own]
    for stream in own:
        here.wait_stream(stream)


def steps(env: WorldVecEnv, act: Callable[[Tensor], Tensor], rounds: int, seed: int) -> Steps:
    """`run` with something to do after each control step; for `in_turns`."""
    results = []
    for i in range(rounds):
        env.seed(seed + i * env.num_envs)
        results.append((yield from _round(env.episodes, act)))
    success, returns = zip(*results, strict=True)
    return np.concatenate(success), np.concatenate(returns)


def _round(episodes: Episodes, act: Callable[[Tensor], Tensor]) -> Steps:
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
        yield
    episodes.check()
    for what, sound in (("observation", finite), ("action", moves)):
        if not sound:
            raise FloatingPointError(f"an {what} is not finite")
    return episodes.succeeded.cpu().numpy().copy(), episodes.returns.cpu().numpy().copy()


@contextmanager
def acting(
    actor: Actor, deterministic: bool, device: torch.device
) -> Iterator[Callable[[Tensor], Tensor]]:
    """The actor as a function of tensors on a device, a policy moved there for the time."""
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
