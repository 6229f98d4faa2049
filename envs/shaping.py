"""Shaping functions that Meta-World's rewards are made of, on tensors of n worlds."""

import torch
from torch import Tensor

NEAR = 0.05  # of an object, for the first rewards, m
_TAIL = 3.0  # sqrt(1 / 0.1 - 1): the long tail is 0.1 at its margin
_GAUSS = 2.302585092994046  # -ln 0.1: so is the bell


def long_tail(x: Tensor, upper: float, margin: Tensor | float, lower: float = 0.0) -> Tensor:
    """1 within [lower, upper], falling as 1 / (1 + (3 d)^2) outside, d in units of the margin.

    This is dm_control's `rewards.tolerance` with its long-tailed sigmoid.

    Args:
        x: Shape (n,).
        upper: Upper bound.
        margin: Distance from the bounds at which the value is 0.1; a number or (n,).
        lower: Lower bound.
    """
    beyond = torch.where(x < lower, lower - x, x - upper) / margin
    inside = (x >= lower) & (x <= upper)
    return torch.where(inside, 1.0, 1.0 / ((_TAIL * beyond).square() + 1.0))


def bell(x: Tensor, upper: float, margin: Tensor | float) -> Tensor:
    """1 for x <= upper, falling as a Gaussian that is 0.1 at the margin; else as `long_tail`."""
    beyond = (x - upper) / margin
    return torch.where(x <= upper, 1.0, (-_GAUSS * beyond.square()).exp())


def hamacher(a: Tensor, b: Tensor) -> Tensor:
    """Hamacher's product a b / (a + b - a b), a soft "and" of values in [0, 1]; 0 at (0, 0)."""
    both = a * b
    either = a + b - both
    return torch.where(either > 0, both / either.clamp(min=1e-300), 0.0)


def distance(a: Tensor, b: Tensor | float = 0.0) -> Tensor:
    """Euclidean distance between rows, shape (n,)."""
    return (a - b).square().sum(dim=1).sqrt()


def quaternion(matrix: Tensor) -> Tensor:
    """Quaternions (x, y, z, w) of rotation matrices (n, 9), largest component positive.

    The scalar comes last and the sign follows scipy's `Rotation.as_quat`, as Meta-World observes
    free objects.
    """
    m = matrix.unflatten(1, (3, 3))
    diagonal = m.diagonal(dim1=1, dim2=2)
    trace = diagonal.sum(dim=1, keepdim=True)
    # Row k of the symmetric matrix 4 q q^T, for every k; the row of the largest q_k is the
    # accurate one.
    squares = torch.cat((1.0 - trace + 2.0 * diagonal, 1.0 + trace), dim=1)
    sums = m + m.transpose(1, 2)
    turns = (m - m.transpose(1, 2)).flatten(1)
    spins = torch.stack((turns[:, 7], turns[:, 2], turns[:, 3]), dim=1)
    outer = torch.diag_embed(squares)
    outer[:, :3, :3] += sums - torch.diag_embed(sums.diagonal(dim1=1, dim2=2))
    outer[:, :3, 3] = outer[:, 3, :3] = spins
    choice = torch.cat((diagonal, trace), dim=1).argmax(dim=1)
    row = outer[torch.arange(len(m), device=m.device), choice]
    return row / row.square().sum(dim=1, keepdim=True).sqrt()


def when_near(near: Tensor, pay: Tensor) -> Tensor:
    """What the first rewards give: less the distance to the object, and pay once it is near."""
    return torch.where(near < NEAR, pay, 0.0) - near


def lure(distance: Tensor, most: Tensor | float, scale: float = 1000.0) -> Tensor:
    """What Meta-World's first rewards pay for bringing something near: linear, then two bells."""
    square = distance.square()
    bells = (square / -0.01).exp() + (square / -0.001).exp()
    return 1000.0 * (most - distance) + scale * bells
