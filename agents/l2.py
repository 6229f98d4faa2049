"""L2 regularisation towards the weights of earlier skills."""

import torch
from torch import Tensor

from clrl.agents.protection import Learner
from clrl.agents.quadratic import QuadraticPenalty, shared


class L2(QuadraticPenalty):
    """Pulls every shared weight back equally, the plainest of the penalties.

    The baseline of Kirkpatrick et al. (2017, arXiv:1612.00796). As with the others, the importance
    adds up: after n skills it is n.
    """

    def __init__(self, strength: float = 10.0, decay: float = 1.0, seed: int = 0) -> None:
        """Set the penalty.

        Args:
            strength: Its weight.
            decay: Of the old importance when a skill ends, in [0, 1]; 0 pulls equally hard always.
            seed: Unused; nothing is drawn.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, decay, seed)

    def measure(self, learner: Learner) -> list[Tensor]:
        """One for all, a single number a tensor."""
        return [torch.ones(1, device=p.device) for p in shared(learner)]
