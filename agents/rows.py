"""The rows of a rollout as tensors, cut into minibatches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from clrl.agents.features import SkillFeatures


@dataclass(frozen=True)
class Rows:
    """Rows of a rollout, float32.

    Attributes:
        features: What the networks see, (rows, features).
        action: What was done, (rows, act).
        value: What the critic said then, (rows,), as are the following.
        log_prob: Log-density of the action then.
        advantage: Estimate of the action's advantage.
        target: What the value should be.
    """

    features: Tensor
    action: Tensor
    value: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor

    @staticmethod
    def of(buffer: RolloutBuffer, features: SkillFeatures) -> "Rows":
        """The rows of a full buffer, in the order in which SB3 numbers them."""

        def column(array: Any) -> Tensor:
            flat = array if buffer.generator_ready else buffer.swap_and_flatten(array)
            return torch.as_tensor(flat, dtype=torch.float32, device=buffer.device)

        with torch.no_grad():
            seen = features(column(buffer.observations))
        ones = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
        return Rows(seen, column(buffer.actions), *(column(one).flatten() for one in ones))

    def shuffled(self, size: int) -> Iterator["Rows"]:
        """All rows once in a random order, `size` at a time; on the CPU drawn as SB3 draws."""
        yield from self._cut(lambda column: column.split(size))

    def dealt(self, count: int) -> Iterator["Rows"]:
        """All rows once in a random order, in `count` parts whose sizes differ by one at most."""
        yield from self._cut(lambda column: column.tensor_split(count))

    def _cut(self, cut: Callable[[Tensor], Sequence[Tensor]]) -> Iterator["Rows"]:
        order = _permutation(len(self.value), self.value.device)
        columns = (getattr(self, f.name).index_select(0, order) for f in fields(self))
        yield from (Rows(*part) for part in zip(*map(cut, columns), strict=True))


def _permutation(count: int, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.randperm(count, device=device)
    # SB3 draws with NumPy's global generator.
    return torch.from_numpy(np.random.permutation(count))  # noqa: NPY002
