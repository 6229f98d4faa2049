"""How much of an actor can still learn: which units lie dormant, and the rank of what they say."""

from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.progressive import Level

DORMANT = 0.025  # score up to which a unit is called dormant, as in Sokar et al.
_LEAST = 1e-5  # activity of a layer below which there is nothing but rounding


def figures(policy: Any, observations: Tensor, skill: int) -> dict[str, float]:
    """Figures of the actor's hidden layers in states of a skill.

    Args:
        policy: One of `clrl.agents.heads`.
        observations: States, (batch, obs).
        skill: Whose head and statistics are used.

    Returns:
        `dormant`, the share of units whose `activity` is at most 0.025, and `effective_rank` of the
        last layer's values; nothing for an actor without hidden layers.
    """
    values = hidden(policy, observations, skill)
    if not values:
        return {}
    scores = torch.cat([activity(units, saturates) for units, saturates in values])
    return {
        "dormant": float((scores <= DORMANT).float().mean()),
        "effective_rank": effective_rank(values[-1][0]),
    }


@torch.no_grad()
def hidden(policy: Any, observations: Tensor, skill: int) -> list[tuple[Tensor, bool]]:
    """Values of the actor's hidden layers, (batch, units), and whether their units saturate.

    Of a progressive network it is the skill's own column.
    """
    values: list[tuple[Tensor, bool]] = []
    with policy.using(skill):
        x = policy.features(observations)
        for layer in policy.body:
            x = layer(x)
            if isinstance(layer, Level):
                own = slice(-layer.columns[-1].out_features, None)
            elif isinstance(layer, nn.Linear):
                own = slice(None)
            elif not list(layer.parameters()):  # a nonlinearity
                values.append((x[:, own].clone(), isinstance(layer, nn.Tanh)))
    return values


def activity(values: Tensor, saturates: bool) -> Tensor:
    """Score of each unit of a layer: its mean absolute value, over the layer's mean of that.

    As Sokar et al. (2023, arXiv:2302.12902) define it, with one deviation: units that saturate,
    tanh's, are first centred on their mean, since one that is stuck at 1 is as dead as one at 0.

    Args:
        values: Of the layer, (batch, units).
        saturates: Whether its units do.

    Returns:
        Shape (units,), mean 1; all 0 where the whole layer is.
    """
    if saturates:
        values = values - values.mean(dim=0)
    size = values.abs().mean(dim=0)
    return size / size.mean().clamp_min(_LEAST)


def effective_rank(values: Tensor) -> float:
    """Effective rank of a matrix (Roy and Vetterli, 2007): the exponential of an entropy.

    The entropy is that of the singular values divided by their sum. It is n for n equal ones, 1
    for a single one, and 0 here for a matrix of zeros.
    """
    singular = torch.linalg.svdvals(values.double())
    total = singular.sum()
    if total == 0.0:
        return 0.0
    share = singular / total
    return float(torch.special.entr(share).sum().exp())
