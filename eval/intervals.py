"""How sure a measured success rate is."""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bounds = NDArray[np.float64]


def wilson(
    successes: ArrayLike, episodes: ArrayLike, confidence: float = 0.95
) -> tuple[Bounds, Bounds]:
    """Wilson score interval of a success rate.

    With p = successes / episodes, n = episodes and z the normal quantile of the confidence, the
    bounds are (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    (Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953). Unlike the textbook p -+ z s it
    stays within [0, 1] and has a width where all episodes succeed, the case that matters here.

    Args:
        successes: Episodes that succeeded, any shape.
        episodes: Episodes that were run, of a shape that broadcasts with it.
        confidence: How often such an interval holds the true rate, within (0, 1).

    Returns:
        Lower and upper bounds in [0, 1], of the broadcast shape.

    Raises:
        ValueError: `successes` is not within [0, episodes], there are no episodes, or `confidence`
            is not within (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be within (0, 1), got {confidence}")
    k, n = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(episodes, np.float64))
    if not (n >= 1).all():
        raise ValueError(f"episodes must be >= 1, got {n[~(n >= 1)][0]:g}")
    outside = ~((k >= 0) & (k <= n))  # negated, so that NaN is outside too
    if outside.any():
        raise ValueError(
            f"successes must be within [0, episodes], got {k[outside][0]:g} of {n[outside][0]:g}"
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate = k / n
    centre = rate + z**2 / (2.0 * n)
    half = z * np.sqrt(rate * (1.0 - rate) / n + z**2 / (4.0 * n**2))
    scale = 1.0 + z**2 / n
    # Rounding must not put a bound on the wrong side of the rate, or outside [0, 1].
    low = np.where(k == 0, 0.0, np.minimum((centre - half) / scale, rate))
    high = np.where(k == n, 1.0, np.maximum((centre + half) / scale, rate))
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
