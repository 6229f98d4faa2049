"""Which skill owns each weight of shared layers, and how a skill acts with its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Masks(nn.Module):
    """Owners of weights that skills share.

    A skill acts with the weights that it and earlier skills own; all others count as 0. The owners
    are buffers of the policy, so that they go wherever its weights go. The newest skill sees every
    weight; for another one its masked weights are put in place of all, and back, so that whatever
    reads the layers reads the right ones. No graph may outlive such a change.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Take layers, whose biases nobody owns; all weights are free."""
        super().__init__()
        self._weights = [layer.weight for layer in layers]
        for i, weight in enumerate(self._weights):
            owner = torch.zeros_like(weight, dtype=torch.uint8)
            self.register_buffer(f"owner_{i}", owner)
        self._whole: list[Tensor] = []

    @property
    def owners(self) -> list[Tensor]:
        """Of each weight: 0 for free, k + 1 for skill k; uint8, (out, in) a layer."""
        return list(self.buffers())

    @torch.no_grad()
    def show(self, skill: int | None) -> None:
        """Let the layers hold the weights of one skill only, or all of them for None."""
        if self._whole:
            torch._foreach_copy_([*self._weights], self._whole)
        self._whole = []
        if skill is None:
            return
        self._whole = [weight.detach().clone() for weight in self._weights]
        for weight, owner in zip(self._weights, self.owners, strict=True):
            weight.masked_fill_((owner == 0) | (owner > skill + 1), 0.0)

    @torch.no_grad()
    def prune(self, skill: int, share: float) -> None:
        """Give a skill the largest of the free weights, and set the others to 0.

        Args:
            skill: The newest.
            share: Of each layer's free weights, in (0, 1]; at least one, where one is free.
        """
        for weight, owner in zip(self._weights, self.owners, strict=True):
            free = owner == 0
            count = int(free.sum())
            size = torch.where(free, weight.abs(), -1.0).flatten()
            kept = size.topk(min(count, max(1, round(share * count)))).indices
            owner.view(-1)[kept] = skill + 1
            weight.masked_fill_(owner == 0, 0.0)

    @torch.no_grad()
    def hold(self, but: int) -> None:
        """Drop the gradients of all weights but those of one owner; 0 for the free ones."""
        for weight, owner in zip(self._weights, self.owners, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(owner == but)

    @property
    def bytes(self) -> int:
        """One byte a weight."""
        return sum(owner.nbytes for owner in self.owners)
