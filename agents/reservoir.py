"""Reservoir sampling: a uniform sample of an endless stream in fixed memory."""

from typing import Any

import torch
from torch import Tensor


class Reservoir:
    """Algorithm R (Vitter, 1985), a batch at a time, over rows of several columns.

    Row t of the stream, counted from 0, takes slot t while there is room, and afterwards a slot
    drawn from 0..t if that is below the capacity. Every row ever added is kept with the same
    probability. Rows stay on the device that they come from.

    Attributes:
        capacity: Most rows it keeps.
        seen: Rows it was offered.
        columns: The rows kept, by column.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self.capacity = capacity
        self.seen = 0
        self.columns: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, rows: dict[str, Tensor], generator: torch.Generator) -> None:
        """Offer rows: columns of shape (batch, ...)."""
        batch = len(next(iter(rows.values())))
        order = self.seen + torch.arange(batch)
        draw = (torch.rand(batch, generator=generator, dtype=torch.float64) * (order + 1)).long()
        slot = torch.where(order < self.capacity, order, draw)
        # Where several rows of a batch draw one slot the last of them stays, as one at a time.
        slots, last = _last_of_each(slot)
        kept = slots < self.capacity
        self._store(slots[kept], last[kept], rows)
        self.seen += batch

    def _store(self, slots: Tensor, chosen: Tensor, rows: dict[str, Tensor]) -> None:
        device = next(iter(rows.values())).device
        slots, chosen = (index.to(device, non_blocking=True) for index in (slots, chosen))
        needed = min(self.capacity, self.seen + len(next(iter(rows.values()))))
        for name, column in rows.items():
            kept = self.columns.get(name, column[:0])
            if len(kept) < needed:  # twice the room each time, so that rows are seldom moved
                grown = min(self.capacity, max(needed, 2 * len(kept)))
                self.columns[name] = column.new_zeros(grown, *column.shape[1:])
                self.columns[name][: len(kept)] = kept
            self.columns[name][slots] = column[chosen]

    def trim(self) -> None:
        """Give back the room that nothing fills."""
        if any(len(column) > len(self) for column in self.columns.values()):
            self.columns = {name: c[: len(self)].clone() for name, c in self.columns.items()}

    def shrink(self, capacity: int, generator: torch.Generator) -> None:
        """Keep a uniform sample of `capacity` of the rows; what was seen stays counted."""
        if capacity < len(self):
            keep = torch.randperm(len(self), generator=generator)[:capacity]
            self.columns = {name: column[keep].clone() for name, column in self.columns.items()}
        self.capacity = min(capacity, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw `count` rows with replacement.

        Raises:
            ValueError: the reservoir is empty.
        """
        if not len(self):
            raise ValueError("cannot sample from an empty reservoir")
        rows = torch.randint(len(self), (count,), generator=generator)
        rows = rows.to(next(iter(self.columns.values())).device, non_blocking=True)
        return {name: column[rows] for name, column in self.columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything it holds."""
        return {"capacity": self.capacity, "seen": self.seen, "columns": dict(self.columns)}

    @staticmethod
    def from_state(state: dict[str, Any]) -> "Reservoir":
        """A reservoir as `state_dict` described it.

        Raises:
            ValueError: it holds fewer rows than it says.
        """
        reservoir = Reservoir(int(state["capacity"]))
        reservoir.seen = int(state["seen"])
        reservoir.columns = dict(state["columns"])
        if any(len(column) < len(reservoir) for column in reservoir.columns.values()):
            raise ValueError("a reservoir holds fewer rows than it says")
        return reservoir


def _last_of_each(slot: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct slots, and for each the index of the last row that drew it."""
    slots, inverse = torch.unique(slot, return_inverse=True)
    last = torch.zeros(len(slots), dtype=torch.int64)
    last.scatter_reduce_(0, inverse, torch.arange(len(slot)), reduce="amax", include_self=False)
    return slots, last
