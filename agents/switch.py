"""One layer for each skill, of which that of the skill at hand acts."""

from typing import Any

from torch import Tensor, nn


class Switch(nn.Module):
    """Layers, one per skill, of which one is active.

    Attributes:
        layers: In the order of the skills.
        active: Index of the one that acts.
    """

    def __init__(self, first: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList([first])
        self.active = 0

    def forward(self, x: Tensor) -> Tensor:
        """Output of the active layer."""
        output: Tensor = self.layers[self.active](x)
        return output

    def select(self, skill: int) -> None:
        """Let the layer of a skill act."""
        self.active = skill

    def add(self) -> Any:
        """Append a layer for one more skill, and give it."""
        raise NotImplementedError

    def copy(self, source: int) -> None:
        """Start the newest layer as that of an earlier skill."""
        self.layers[-1].load_state_dict(self.layers[source].state_dict())
