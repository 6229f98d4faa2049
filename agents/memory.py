"""An external memory: rows that are observations, read by attention and never overwritten.

It holds examples of each earlier skill, written when that skill ends, and observations from earlier
in the episode, which the environment shows before the latest one. Keys and values are learned
functions of the rows, so that reading is differentiable; addressing is by content, as in the Neural
Turing Machine (Graves et al., 2014, arXiv:1410.5401), over rows that are past observations, as in
the memory network of Oh et al. (2016, arXiv:1605.09128).
"""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from clrl.agents.features import SkillFeatures
from clrl.agents.switch import Switch

HEADS, SHARPEST = 4, 16.0  # reads at once; factor of the cosine in the last of them, 1 in the first


class MemoryFeatures(SkillFeatures):
    """Observations and the rows before them, normalised alike, and what earlier skills wrote.

    An observation is `rows` earlier observations, the oldest first, and the present one; a row of
    zeros is empty.

    Attributes:
        rows: Earlier observations in each observation.
        size: Numbers of one.
        written: Examples of each skill, as they were observed, (max_skills, examples, size).
    """

    written: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        rows: int,
        examples: int,
        width: int,
        max_skills: int = 20,
        **options: Any,
    ) -> None:
        """Make room.

        Args:
            observation_space: Of shape ((rows + 1) * size,).
            rows: Earlier observations in each observation.
            examples: Rows that each skill writes when it ends.
            width: Numbers that are read from the memory.
            max_skills: Most skills the policy can hold.
            options: As `SkillFeatures`.

        Raises:
            ValueError: observations do not hold that many rows.
        """
        total = spaces.utils.flatdim(observation_space)
        if total % (rows + 1):
            raise ValueError(
                f"memory: observations of {total} numbers do not hold {rows} earlier ones; give "
                f"the skills recall={rows}"
            )
        if width % HEADS:
            raise ValueError(f"memory: width must be a multiple of {HEADS}, got {width}")
        self.rows, self.size, self.width = rows, total // (rows + 1), width
        one = spaces.Box(-float("inf"), float("inf"), (self.size,))
        super().__init__(one, max_skills=max_skills, **options)
        self._observation_space = observation_space
        self._features_dim = self.size + width  # of what follows `Memory`
        self.register_buffer("written", torch.zeros(max_skills, examples, self.size))

    def of(self, observations: Tensor, skill: int) -> Tensor:
        """Rows and present observation, (batch, (rows + 1) * size), normalised where not empty."""
        rows = observations.flatten(start_dim=1).unflatten(1, (-1, self.size))
        return self._seen_as(rows, skill).flatten(start_dim=1)

    def earlier(self) -> Tensor:
        """What the skills before the active one wrote, as the active one sees it, (n, size)."""
        return self._seen_as(self.written[: self.active].flatten(0, 1), self.active)

    def _seen_as(self, rows: Tensor, skill: int) -> Tensor:
        filled = (rows != 0.0).any(dim=-1, keepdim=True)
        return self.normalised(rows, skill) * filled

    def update(self, observations: Tensor) -> None:
        """Fold the present observations of (batch, ...) into the active skill's statistics."""
        super().update(observations.flatten(start_dim=1)[:, -self.size :])

    @torch.no_grad()
    def write(self, observations: Tensor) -> None:
        """Keep the present ones of up to `examples` observations for later skills."""
        rows = observations.flatten(start_dim=1)[: self.written.shape[1], -self.size :]
        self.written[self.active].zero_()
        self.written[self.active, : len(rows)] = rows


class Reader(nn.Module):
    """How one skill reads: attention with several heads of different sharpness.

    The weight of row r in head h is softmax_r(b_h cos(q_h, k_h(r)) + p_hr), with a row that says
    nothing beside them, of score 0. The sharpness b_h is learned, from 1 in the first head to 16 in
    the last, and so is p_hr, which goes by the place of a row in the episode. Keys begin equal to
    queries: at first, a row is near if it looks like what is seen now.
    """

    def __init__(self, size: int, rows: int, width: int) -> None:
        """Make one for rows of `size` numbers, of which `rows` are the episode's."""
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, width) for _ in range(3))
        self.key.load_state_dict(self.query.state_dict())
        self.log_sharpness = nn.Parameter(
            torch.tensor(SHARPEST).log() * torch.linspace(0, 1, HEADS)
        )
        self.place = nn.Parameter(torch.zeros(HEADS, rows))

    def forward(self, now: Tensor, rows: Tensor, earlier: Tensor) -> Tensor:
        """Read.

        Args:
            now: What is seen, (batch, size).
            rows: Of the episode, (batch, rows, size); zeros where empty.
            earlier: Of earlier skills, (n, size), likewise.

        Returns:
            Shape (batch, width).
        """
        query = functional.normalize(_heads(self.query(now)), dim=-1)
        near = self._scores("bhd,brhd->bhr", query, rows) + self.place
        far = self._scores("bhd,nhd->bhn", query, earlier)
        nothing = query.new_zeros((*query.shape[:2], 1))
        weights = torch.cat((near, far, nothing), dim=-1).softmax(dim=-1)
        here, there, _ = weights.split((rows.shape[1], len(earlier), 1), dim=-1)
        read: Tensor = torch.einsum("bhr,brhd->bhd", here, _heads(self.value(rows)))
        read += torch.einsum("bhn,nhd->bhd", there, _heads(self.value(earlier)))
        return read.flatten(start_dim=1)

    def _scores(self, product: str, query: Tensor, rows: Tensor) -> Tensor:
        """Scores of rows, (batch, heads, rows), those of empty ones minus infinity."""
        key = functional.normalize(_heads(self.key(rows)), dim=-1)
        scores = self.log_sharpness.exp()[:, None] * torch.einsum(product, query, key)
        empty = (rows == 0.0).all(dim=-1)
        return scores.masked_fill(empty[:, None] if empty.dim() == 2 else empty, -float("inf"))


def _heads(values: Tensor) -> Tensor:
    split: Tensor = values.unflatten(-1, (HEADS, -1))
    return split


class Memory(Switch):
    """The first layer of a network with a memory: a reader per skill; earlier ones are frozen."""

    def __init__(self, features: MemoryFeatures) -> None:
        """Begin with one skill's reader of what `features` shows."""
        super().__init__(Reader(features.size, features.rows, features.width))
        object.__setattr__(self, "_features", features)  # a part of the policy, not of this

    def forward(self, x: Tensor) -> Tensor:
        """From features to the present observation and what was read, (batch, size + width)."""
        features: Any = self._features
        rows = x.unflatten(1, (-1, features.size))
        now = rows[:, -1]
        read = self.layers[self.active](now, rows[:, :-1], features.earlier())
        return torch.cat((now, read), dim=1)

    def add(self) -> Reader:
        """Freeze what there is and append a reader for one more skill."""
        self.requires_grad_(False)
        features: Any = self._features
        reader = Reader(features.size, features.rows, features.width).to(features.written.device)
        self.layers.append(reader)
        return reader
