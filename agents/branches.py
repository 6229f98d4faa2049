"""Networks of several skills without a graph: layers that all share, then a head for each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.switch import Switch
from clrl.agents.tape import Tape


class Branches:
    """Shared layers, and after them a head for each skill's rows, which come skill after skill."""

    def __init__(
        self,
        shared: Sequence[nn.Module],
        heads: Sequence[Switch],
        skills: Sequence[int],
        keep: bool = True,
    ) -> None:
        """Take layers and, of each head, those of the skills, each once; `keep` as of `Tape`."""
        self._shared, self._bare = Tape(nn.Sequential(*shared), keep), not shared
        chosen = [0] if len(heads[0].layers) == 1 else skills
        self._heads = [[Tape(head.layers[i], keep) for i in chosen] for head in heads]  # type: ignore[arg-type]

    @staticmethod
    def of_actor(actor: Any, skills: Sequence[int], keep: bool = True) -> "Branches":
        """SAC's actor, whose outputs are mean and log-std."""
        return Branches([*actor.latent_pi], [actor.mu, actor.log_std], skills, keep)

    @staticmethod
    def of_critics(critic: Any, skills: Sequence[int], keep: bool = True) -> "list[Branches]":
        """SAC's critics, with one output each."""
        return [Branches([*net][:-1], [net[-1]], skills, keep) for net in critic.q_networks]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Output of each of the heads, (rows, out), for as many rows of each skill."""
        count = len(self._heads[0])
        if x.shape[0] % count:
            raise ValueError(f"{x.shape[0]} rows are not as many of each of {count}")
        parts = _cut(self._shared.forward(x), count)
        return [
            _joined([tape.forward(part) for tape, part in zip(tapes, parts, strict=True)])
            for tapes in self._heads
        ]

    def backward(self, gradients: Sequence[Tensor], **asked: Any) -> Any:
        """Gradients by those of the outputs; arguments and result as of `Tape.backward`."""
        by_latent: Tensor | None = None
        columns = slice(None)  # of what the heads see
        if self._bare and asked.get("inputs") is not None:
            columns = asked["inputs"]
        options = asked | {"inputs": columns}
        for tapes, gradient in zip(self._heads, gradients, strict=True):
            pairs = zip(tapes, _cut(gradient, len(tapes)), strict=True)
            part = _joined([tape.backward(rows, **options) for tape, rows in pairs])
            by_latent = part if by_latent is None else by_latent.add_(part)
        assert by_latent is not None
        if self._bare:
            return by_latent if asked.get("inputs") is not None else None
        return self._shared.backward(by_latent, **asked)


def _cut(rows: Tensor, count: int) -> Sequence[Tensor]:
    return [rows] if count == 1 else rows.chunk(count)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])
