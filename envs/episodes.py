"""Episodes of one skill in n worlds: the loop every environment of ours is a face of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clrl.envs.counter_random import uniform
from clrl.envs.divergence import Divergence, Divergences
from clrl.envs.recall import Recall
from clrl.envs.skill import Skill, Terms
from clrl.envs.world import make_world


@dataclass(frozen=True)
class Step:
    """What one control step gave; every tensor has shape (n, ...).

    Attributes:
        observation: After the step, (n, obs), float32.
        reward: Sum of the terms.
        terms: The reward's named terms.
        success: Whether the skill is accomplished at this step.
        done: Whether the episode reached its horizon with this step, on the CPU. There it also
            ends where the physics diverged and the step was taken back. On a device, where knowing
            that would wait, it goes on from where the world stood.
    """

    observation: Tensor
    reward: Tensor
    terms: Terms
    success: Tensor
    done: Tensor


class Episodes:
    """n worlds of one skill with their clocks, seeds and success so far.

    Attributes:
        elapsed: Control steps since the world's reset, (n,), int64, on the CPU: whoever resets
            worlds knows which end without waiting for a device.
        succeeded: Whether the episode succeeded so far, by the skill's rule, (n,), bool.
        returns: Sum of rewards so far, (n,), float64.
        divergences: Steps that were taken back because the physics diverged; those of a device
            are added by `check` and `reset`, which wait for it.
    """

    def __init__(self, skill: Skill, n: int, device: str = "cpu", threads: int = 0) -> None:
        self.skill = skill
        self.world = make_world(skill.model, n, device, threads, skill.contacts, skill.poses_only)
        for name in skill.parameters:
            self.world.parameter(name)
        self._any = skill.success_rule == "any-step"
        self._checked = False
        self.divergences = Divergences()
        self.n = n
        self._every = torch.ones(n, dtype=torch.bool, device=self.world.device)
        self._seed = torch.zeros(n, dtype=torch.int64, device=self.world.device)
        self._episode = torch.zeros_like(self._seed)
        self._drawn = torch.zeros(n, skill.draws, dtype=self.world.dtype, device=self.world.device)
        self._drawn_for = torch.full_like(self._seed, -1)  # which episode of each world
        self.elapsed = torch.zeros(n, dtype=torch.int64)
        self.succeeded = torch.zeros_like(self._every)
        self.returns = torch.zeros(n, dtype=torch.float64, device=self.world.device)
        self._taken = torch.zeros(n, *skill.action_space.shape, device=self.world.device)
        self._size = int(skill.observation_space.shape[0]) // (1 + skill.recall)
        self.recall: Recall | None = None
        if skill.recall:
            shape = (n, self._size, skill.recall, skill.horizon)
            self.recall = Recall(*shape, self.world.device)

    def seed(self, seed: int | Tensor) -> None:
        """Seed world i with `seed + i`, or with `seed[i]`; takes effect at its next reset."""
        if isinstance(seed, int):
            seed = seed + torch.arange(self.n, dtype=torch.int64)
        self._seed.copy_(seed)
        self._episode.zero_()
        self._drawn_for.fill_(-1)

    @torch.inference_mode()
    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Start new episodes in masked worlds, or in all; returns all observations (n, obs)."""
        self.check()
        mask = self._every if mask is None else mask
        self.elapsed.masked_fill_(mask.cpu(), 0)
        mask = mask.to(self.world.device)
        self.world.reset(mask)
        self.skill.reset(self.world, mask, self._random(mask))
        self.world.forward(mask)
        self._episode += mask
        self.succeeded.masked_fill_(mask, False)
        self.returns.masked_fill_(mask, 0.0)
        if self.recall:
            self.recall.forget(mask)
        return self._observe()

    def _random(self, mask: Tensor) -> Tensor:
        """Numbers of the episodes that begin, (mask.sum(), draws); drawn for all worlds at once."""
        if not self._drawn_for[mask].equal(self._episode[mask]):
            self._drawn.copy_(uniform(self._seed, self._episode, self.skill.draws))
            self._drawn_for.copy_(self._episode)
        return self._drawn[mask]

    def _observe(self) -> Tensor:
        observation = self.skill.observe(self.world).float()
        return self.recall.show(observation) if self.recall else observation

    @torch.inference_mode()
    def step(self, action: Tensor) -> Step:
        """Take one control step in every world with actions of shape (n, act); no waiting.

        Raises:
            ValueError: on the CPU, a term of the reward that is not finite.
        """
        action = action.to(self.world.device)
        self.skill.act(self.world, action.clamp(-1.0, 1.0))
        self.world.step(self.skill.substeps)
        diverged = self.world.diverged
        terms = self.skill.reward(self.world)
        if not self._checked:
            self._check(terms, self.skill.success(self.world), self.skill.observe(self.world))
            self._checked = True
        reward = torch.stack(list(terms.values())).sum(dim=0)
        if reward.is_cpu and not math.isfinite(reward.sum()):  # elsewhere a look would wait
            self._blame(terms, reward)
        success = self.skill.success(self.world)
        if self.recall:
            self.recall.keep(self.elapsed)
        self.elapsed += 1
        if self._any:
            self.succeeded |= success
        else:
            self.succeeded.copy_(success)
        self.returns += reward
        done = self.elapsed >= self.skill.horizon
        if self.world.fresh is not None:
            self._taken = torch.where(self.world.fresh[:, None], action, self._taken)
        elif diverged is not None:
            self._note(diverged, action)
            done |= diverged
        return Step(self._observe(), reward, terms, success, done)

    @torch.inference_mode()
    def check(self) -> None:
        """Wait for the device, and learn what happened there in the steps so far.

        Raises:
            CapacityError: a world had more contacts than there is room for.
        """
        self.world.check()
        if (taken := self.world.taken_back()) is None:
            return
        self.divergences.count += int(taken.counts.sum())
        for row, i in enumerate(taken.worlds[: self.divergences.room].tolist()):
            elapsed = int(self.elapsed[i] - taken.ago[row])
            self._keep(i, elapsed, taken.states[row], self._taken[i])

    def _note(self, diverged: Tensor, action: Tensor) -> None:
        self.divergences.count += int(diverged.sum())
        for i in diverged.nonzero()[: self.divergences.room, 0].tolist():
            self._keep(i, int(self.elapsed[i]), self.world.before[i], action[i])

    def _keep(self, i: int, elapsed: int, state: Tensor, action: Tensor) -> None:
        facts = {"state": state, "action": action}
        facts |= {"seed": self._seed[i], "episode": self._episode[i]}
        facts = {name: value.to("cpu", copy=True) for name, value in facts.items()}
        self.divergences.kept.append(Divergence(i, elapsed, facts))

    def _check(self, terms: object, success: object, observation: object) -> None:
        """Say which function of a skill gives what cannot be meant, at the first step."""
        if not isinstance(terms, dict) or not terms:
            raise ValueError(f"skill {self.skill.name!r}: reward must give a dict of named terms")
        expected: dict[str, tuple[object, tuple[int, ...]]] = {
            f"reward's {name!r}": (term, ()) for name, term in terms.items()
        }
        expected |= {"success": (success, ()), "observe": (observation, (self._size,))}
        for name, (value, shape) in expected.items():
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            if found != (self.n, *shape):
                raise ValueError(
                    f"skill {self.skill.name!r}: {name} must be a tensor of shape "
                    f"{(self.n, *shape)}, got {found}"
                )
        if not (isinstance(success, Tensor) and success.dtype == torch.bool):
            raise ValueError(f"skill {self.skill.name!r}: success must be of type bool")

    def _blame(self, terms: Terms, reward: Tensor) -> None:
        """Say which term of the reward is not finite, and where it came about."""
        skill = f"skill {self.skill.name!r}"
        for name, term in terms.items():
            for i in (~term.isfinite()).nonzero()[:1, 0].tolist():
                where = (
                    f"in world {i} of {self.n}, in step {int(self.elapsed[i]) + 1} of its episode"
                )
                raise ValueError(f"{skill}: reward's {name!r} is {float(term[i])} {where}")
        if not reward.isfinite().all():  # or else only the sum over worlds is too large
            raise ValueError(f"{skill}: the sum of the reward's terms is not finite")

    def state(self) -> dict[str, Tensor]:
        """Everything the coming steps depend on, on the CPU.

        `load_state` continues bit for bit on the CPU.
        """
        state = {
            "world": self.world.state(),
            "seed": self._seed,
            "episode": self._episode,
            "elapsed": self.elapsed,
            "succeeded": self.succeeded,
            "returns": self.returns,
        }
        if self.recall:
            state |= {"recalled": self.recall.rows, "now": self.recall.now}
        return {name: value.to("cpu", copy=True) for name, value in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.check()
        self.world.load_state(state["world"])
        self._seed.copy_(state["seed"])
        self._episode.copy_(state["episode"])
        self._drawn_for.fill_(-1)
        self.elapsed.copy_(state["elapsed"])
        self.succeeded.copy_(state["succeeded"])
        self.returns.copy_(state["returns"])
        if self.recall:
            self.recall.rows.copy_(state["recalled"])
            self.recall.now.copy_(state["now"])


def check_shape(found: Sequence[int], asked: Sequence[int]) -> None:
    """Raise ValueError where actions have another shape; some would be broadcast."""
    if tuple(found) != tuple(asked):
        raise ValueError(f"actions must have shape {tuple(asked)}, got {tuple(found)}")
