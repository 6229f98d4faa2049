"""Progressive networks (Rusu et al., 2016, arXiv:1606.04671): a column of layers for each skill."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clrl.agents.protection import Protection
from clrl.agents.switch import Switch


class Progressive(Protection):
    """Gives each skill a new column of the actor; earlier columns are frozen and read from.

    It asks the policy for columns, see `Level`, and has nothing left to do: earlier skills act as
    they did, to the bit. The actor's layers grow quadratically with the number of skills.
    """

    policy_kwargs: ClassVar[Mapping[str, Any]] = MappingProxyType({"progressive": True})
    alone: ClassVar[bool] = True
    weighs: ClassVar[bool] = False


class Grown(Switch):
    """A linear layer per skill, which reads from the columns up to its own; others are frozen."""

    def __init__(self, first: Any, lateral: bool) -> None:
        """Begin with one skill's layer.

        Args:
            first: An `nn.Linear`.
            lateral: Read from the columns of the level below; otherwise from the observation.
        """
        super().__init__(first)
        self.lateral = lateral

    def add(self) -> nn.Linear:
        """Freeze what there is and append a layer with torch's own initialisation."""
        self.requires_grad_(False)
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        inputs = first.in_features * (1 + len(self.layers) if self.lateral else 1)
        layer = type(first)(inputs, first.out_features, device=first.weight.device)
        self.layers.append(layer)
        return layer

    @torch.no_grad()
    def copy(self, source: int) -> None:
        """Start the newest layer with what an earlier one reads, and nothing of its own column."""
        newest: Any = self.layers[-1]
        newest.load_state_dict(_joined([self.layers[source]], newest.in_features).state_dict())


class Level(Grown):
    """The same layer of all columns, whose values lie side by side, the oldest column first.

    Column k has the value h_i^k = f(W_i^k h_{i-1}^k + sum_{j<k} U_i^{k:j} h_{i-1}^j + b_i^k) at
    level i; W and all U of a column are one weight on the values of columns 0..k.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Values of the columns up to the active one, before the nonlinearity.

        Args:
            x: Of the level below, (batch, (active + 1) * in), or observations, (batch, in).

        Returns:
            Shape (batch, (active + 1) * out).
        """
        return torch.cat([layer(x[:, : layer.in_features]) for layer in self.columns], dim=1)

    def copy(self, source: int) -> None:
        """Leave the newest column as it is: it learns, beside those that are frozen."""

    @property
    def columns(self) -> list[Any]:
        """The layers up to the active one."""
        return list(self.layers)[: self.active + 1]

    def joined(self) -> nn.Linear:
        """Those layers as one."""
        return _joined(self.columns)


def to_columns(
    network: nn.Sequential, kind: type[Level] = Level, name: str = "progressive"
) -> None:
    """Make the layers of a network the first column of one with columns, in place.

    Args:
        network: Of layers and what is between them.
        kind: Of its levels.
        name: Who asks, for messages.

    Raises:
        ValueError: it has no layer, or one that would mix columns.
    """
    if not len(network):
        raise ValueError(f"{name} needs a hidden layer; give net_arch at least one")
    if any(isinstance(layer, nn.LayerNorm) for layer in network):
        raise ValueError(f"{name} and layer_norm exclude each other: it would mix columns")
    for i, layer in enumerate(network):
        if isinstance(layer, nn.Linear):
            network[i] = kind(layer, lateral=i > 0)


def side_by_side(network: Sequence[nn.Module], heads: Switch, skill: int) -> list[nn.Module]:
    """All columns as one plain network: what one does not read has the weight 0.

    Args:
        network: Levels and what is between them.
        heads: On the last level.
        skill: Whose head to take.

    Returns:
        Its layers, the head last; those before it are the same for every skill.
    """
    wide: list[nn.Module] = [
        _joined(list(layer.layers)) if isinstance(layer, Level) else layer for layer in network
    ]
    every: list[Any] = list(heads.layers)
    return [*wide, _joined([every[skill]], every[-1].in_features)]


@torch.no_grad()
def _joined(layers: list[Any], inputs: int | None = None) -> nn.Linear:
    """Linear layers one above the other; each reads the first of `inputs` inputs."""
    weights = [layer.weight for layer in layers]
    width = inputs or weights[-1].shape[1]
    rows = torch.cat([nn.functional.pad(w, (0, width - w.shape[1])) for w in weights])
    joined: nn.Linear = nn.utils.skip_init(nn.Linear, width, len(rows))
    joined.weight.copy_(rows)
    joined.bias.copy_(torch.cat([layer.bias for layer in layers]))
    return joined
