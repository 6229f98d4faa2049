"""Synaptic intelligence (Zenke, Poole and Ganguli, 2017, arXiv:1703.04200)."""

from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.protection import Learner
from clrl.agents.quadratic import QuadraticPenalty, shared


class SynapticIntelligence(QuadraticPenalty):
    """Pulls each shared weight back by how much it lowered the loss while the skill was learned.

    Along the path of training every weight adds up -g_k d theta_k: g the gradient of the learner's
    own loss, d theta_k what the optimizer then made of it, whatever optimizer it is. The importance
    is max(0, sum) / (total change^2 + damping). Deviations from the paper: the sum is cut at 0, or
    weights would be pushed away; with PPO g is the clipped gradient; and the division by the mean.
    """

    order = 0  # g is the learner's alone, before other protections add to it

    def __init__(
        self, strength: float = 10.0, damping: float = 1e-3, decay: float = 1.0, seed: int = 0
    ) -> None:
        """Set the penalty.

        Args:
            strength: Its weight (c in the paper).
            damping: Bounds the importance of weights that hardly moved, > 0 (xi in the paper).
            decay: Of the old importance when a skill ends, in [0, 1]; 1 adds up all skills.
            seed: Unused; nothing is drawn.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, decay, seed)
        if not damping > 0.0:
            raise ValueError(f"damping must be > 0, got {damping}")
        self.damping = damping
        self._path: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def update(self, learner: Learner) -> None:
        """Account for the step before, note this one's gradient, then pull."""
        parameters = shared(learner)
        if not self._path:
            zeros = [torch.zeros_like(p) for p in parameters]
            self._path = {"start": _copies(parameters), "sum": zeros}
        self._account(parameters)
        self._path["before"] = _copies(parameters)
        self._path["gradient"] = [
            torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters
        ]
        super().update(learner)

    def _account(self, parameters: list[nn.Parameter]) -> None:
        """Add what the latest step did."""
        if "gradient" in self._path:
            moved = torch._foreach_sub(self._path["before"], [*parameters])
            torch._foreach_addcmul_(self._path["sum"], self._path.pop("gradient"), moved)

    @torch.no_grad()
    def measure(self, learner: Learner) -> list[Tensor]:
        """The importance along the path that ends here."""
        parameters = shared(learner)
        if not self._path:  # the skill ended before its first update
            return [torch.zeros_like(p) for p in parameters]
        self._account(parameters)
        change = torch._foreach_sub([*parameters], self._path["start"])
        total, self._path = self._path["sum"], {}
        return [
            s.clamp_min(0.0) / (c.square() + self.damping)
            for s, c in zip(total, change, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Importance, anchor and the path so far."""
        path = {name: list(tensors) for name, tensors in self._path.items()}
        return super().state_dict() | {"path": path}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back importance, anchor and path."""
        super().load_state_dict(state)
        self._path = {name: list(tensors) for name, tensors in state["path"].items()}


def _copies(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]
