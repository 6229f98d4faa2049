"""SAC on all skills at once, the usual upper bound of what learning them in turn can keep."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clrl.agents import sac_update
from clrl.agents.joint import check_joint
from clrl.agents.sac import ContinualSAC


class JointSAC(ContinualSAC):
    """SAC that learns several skills at once on shared trunks, with heads for each.

    Its environment is a VecEnv with `parts`, one a skill, in the order of `begin_skill`. Each skill
    has its own columns of the replay buffer, observation statistics and temperature; every batch
    holds as many transitions of each, and a gradient is the mean over all of them, which is that of
    the multi-task SAC of Yu et al., "Meta-World" (CoRL 2019, arXiv:1910.10897), whose temperatures
    are a skill's own too.
    """

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.explore != "random" or self.action_noise is not None:
            raise ValueError(
                "joint training explores at random; leave explore and action_noise out"
            )
        check_joint(self, sac_update.supports(self))

    def _temperatures(self) -> int:
        return int(self.policy.n_heads)

    def _slices(self) -> list[slice]:
        """The worlds of each skill."""
        env: Any = self.env
        if self.policy.n_heads != max(1, len(self.skills)):
            raise ValueError("joint training has a head for each skill; leave n_heads out")
        if len(getattr(env, "parts", ())) != len(self.skills):
            raise ValueError(f"joint training of {len(self.skills)} skills needs an env for each")
        slices: list[slice] = env.slices
        return slices

    def collect_rollouts(self, env: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Collect as `ContinualSAC` does, in the worlds of all skills at once."""
        self._slices()
        check_joint(self, sac_update.supports(self))
        return super().collect_rollouts(env, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Act in each skill's worlds by its own head."""
        seen: Any = self._last_obs
        drawn = []
        try:
            for skill, rows in enumerate(self._slices()):
                self._last_obs = seen[rows]
                with self.policy.using(skill):
                    drawn.append(super()._sample_action(learning_starts, None, len(seen[rows])))
        finally:
            self._last_obs = seen
        actions, scaled = (np.concatenate(column) for column in zip(*drawn, strict=True))
        return actions, scaled

    def _see(self, observations: Tensor) -> None:
        """Fold each skill's new observations into its own statistics."""
        steps = observations.unflatten(0, (-1, self.n_envs))
        for skill, rows in enumerate(self._slices()):
            with self.policy.using(skill):
                super()._see(steps[:, rows].flatten(0, 1))

    @property
    def learned(self) -> list[int]:
        """Indices of the skills being learned: all."""
        return list(range(len(self.skills)))

    def draws(self, count: int, size: int) -> Tensor:
        """Indices of some batches, an equal share of `size` of each skill, in their order."""
        buffer: Any = self.replay_buffer
        shape = (count, max(1, size // len(self.skills)))
        columns = []
        for rows in self._slices():
            worlds = rows.stop - rows.start
            drawn = torch.randint(buffer.size() * worlds, shape, device=buffer.device)
            columns.append(drawn // worlds * buffer.n_envs + rows.start + drawn % worlds)
        return torch.cat(columns, dim=1)

    def _experience(self) -> Any:
        """Of the newest skill, as for every agent."""
        buffer: Any = self.replay_buffer
        rows = buffer.buffer_size if buffer.full else buffer.pos
        seen = buffer.observations[:rows, self._slices()[-1]]
        return seen.reshape(-1, seen.shape[-1])
