"""Stops training at the first number that is not finite, and says which."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor


class NumericalError(RuntimeError):
    """A NaN or an infinity in an observation, an action, a reward, a loss or a weight."""


class Unread:
    """Findings on a device that nobody has looked at yet, since a look makes the host wait."""

    def __init__(self) -> None:
        self._found: dict[str, Tensor] = {}

    def add(self, quantity: str, total: Tensor) -> None:
        """Note a sum that is finite where all of a quantity's numbers are."""
        bad = ~torch.isfinite(total)
        before = self._found.get(quantity)
        self._found[quantity] = bad if before is None else bad | before

    def read(self) -> str | None:
        """The first quantity found not finite since the last look, if there is one."""
        found, self._found = self._found, {}
        if not found:
            return None
        bad = torch.stack(list(found.values())).tolist()
        return next((quantity for quantity, is_bad in zip(found, bad, strict=True) if is_bad), None)


class Guard(BaseCallback):
    """Looks at what the environment returns before the policy is trained on it.

    Arrays are looked at in every step; tensors, which may lie on a device, when the rollout ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unread = Unread()

    def _on_training_start(self) -> None:
        if not _finite(list(self.model.policy.parameters())):
            raise NumericalError(message(self.model, "weight of the policy"))

    def _on_rollout_start(self) -> None:
        self._check("observation", self.model._last_obs)

    def _on_step(self) -> bool:
        self._check("action", self.locals["actions"])
        self._check("observation", self.locals["new_obs"])
        self._check("reward", self.locals["rewards"])
        return True

    def _on_rollout_end(self) -> None:
        if quantity := self._unread.read():
            raise NumericalError(message(self.model, quantity, "in the rollout that ended"))

    def _check(self, quantity: str, values: Any) -> None:
        if isinstance(values, Tensor):
            self._unread.add(quantity, values.sum())
        elif not np.isfinite(values).all():
            raise NumericalError(message(self.model, quantity))


def check_gradients(agent: Any, weights: Sequence[Tensor], name: str) -> None:
    """Raise NumericalError where a gradient about to be applied to weights is not finite.

    Where weights of the agent are not, they are the ones that are named. On a device it is noted in
    `agent.unread` instead.
    """
    gradients = [p.grad for p in weights if p.grad is not None]
    if not gradients:
        return
    try:
        _check(agent, gradients, f"gradient of the {name} loss")
    except NumericalError:
        for kind, other in agent._watched().items():
            check_weights(agent, parameters(other), kind)
        raise


def check_weights(agent: Any, weights: Sequence[Tensor], name: str) -> None:
    """The same for weights."""
    _check(agent, weights, f"weight of the {name}")


def check_statistics(agent: Any) -> None:
    """The same for what observations of the skill at hand are normalised by."""
    features = agent.policy.features
    tensors = [features.mean[features.active], features.var[features.active]]
    _check(agent, tensors, "statistic of the observations")


def check_memories(agent: Any) -> None:
    """Raise NumericalError where a protection remembers a number that is not finite."""
    for protection in agent.protections:
        floats = [t for t in _tensors(protection.state_dict()) if t.is_floating_point()]
        if not all(t.isfinite().all() for t in floats):
            raise NumericalError(message(agent, f"memory of {type(protection).__name__}"))


def check_losses(agent: Any) -> None:
    """Raise NumericalError where a loss that was logged is not finite."""
    for name, value in agent.logger.name_to_value.items():
        is_loss = name.startswith("train/") and "loss" in name
        if is_loss and not math.isfinite(value):
            raise NumericalError(message(agent, name.removeprefix("train/")))


def message(agent: Any, quantity: str, when: str = "") -> str:
    """One line that names skill, quantity and step."""
    skill = f"skill {agent.skills[-1]!r}: " if agent.skills else ""
    where = f"{when} at step {agent.num_timesteps}".strip()
    return f"{skill}{quantity} is not finite {where}; training stopped"


def _check(agent: Any, tensors: Sequence[Tensor], quantity: str) -> None:
    if on_device(tensors[0]):
        agent.unread.add(quantity, _sum(tensors))
    elif not _finite(tensors):
        raise NumericalError(message(agent, quantity))


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All weights of an optimizer."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def on_device(tensor: Tensor) -> bool:
    """Whether reading a number of it makes the host wait."""
    return tensor.device.type != "cpu"


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _tensors(part)


# A sum is finite only if all its terms are, which is the quickest look: of each tensor where a
# number is read at once, else of all of them, in one.


def _finite(tensors: Sequence[Tensor]) -> bool:
    return math.isfinite(sum([t.detach().sum().item() for t in tensors]))


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors]).sum()
