"""Random numbers as a function of (seed, episode): no state, any batch, any order, any device.

Each world draws from its own seed and its own count of resets, so that an episode's start is the
same whether it runs alone or beside a thousand others, and nothing needs saving but two integers.
"""

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as signed 64-bit integers, which wrap in torch.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


def uniform(seed: Tensor, episode: Tensor, count: int) -> Tensor:
    """Draw `count` numbers in [0, 1) for each world.

    Args:
        seed: One integer per world, shape (n,), int64.
        episode: How often the world was reset since it was seeded, shape (n,), int64.
        count: Numbers per world.

    Returns:
        Shape (n, count), float64.
    """
    stream = _mix(_mix(seed * _GAMMA) + episode * _GAMMA)
    counter = torch.arange(1, count + 1, device=seed.device, dtype=torch.int64)
    bits = _mix(stream[:, None] + counter * _GAMMA)
    return _shift(bits, 11).to(torch.float64) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
