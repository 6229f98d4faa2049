"""How sure figures over several seeds are: stratified bootstrap, IQM, probability of improvement.

Scores have shape (runs, tasks): a row is one seed, a column one task, here a skill. The procedures
are those of Agarwal et al. (2021, https://arxiv.org/abs/2108.13264) and of their library rliable.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[..., Array]

RESAMPLES = 5000


def mean(scores: Array) -> Array:
    """Mean over runs and tasks, the last two axes."""
    return np.asarray(scores.mean(axis=(-2, -1)))


def iqm(scores: Array) -> Array:
    """Interquartile mean over runs and tasks together, the last two axes.

    The lowest and the highest quarter of all values are left out, rounded down to whole values, so
    that one lucky or lost run moves it less than the mean.

    Args:
        scores: Shape (..., runs, tasks).

    Returns:
        Shape (...).
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(axis=-1))


def probability_of_improvement(ours: Array, theirs: Array) -> Array:
    """Chance that a run of ours is better than one of theirs on a task drawn at random.

    The mean over tasks of P(X > Y) + P(X = Y) / 2 over all pairs of runs, which is the
    Mann-Whitney U statistic over the number of pairs.

    Args:
        ours: Shape (..., runs, tasks).
        theirs: Shape (..., other runs, tasks).

    Returns:
        Within [0, 1], shape (...).
    """
    difference = ours[..., :, None, :] - theirs[..., None, :, :]
    return np.asarray((0.5 + 0.5 * np.sign(difference)).mean(axis=(-3, -2, -1)))


def interval(
    statistic: Statistic,
    *scores: ArrayLike,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of a statistic by stratified bootstrap: tasks are the strata.

    Each resample draws, for every task on its own, as many runs as there are, with replacement.
    Runs of a task are taken to be independent; the tasks are held fixed.

    Args:
        statistic: Takes arrays of shape (resamples, runs, tasks), gives (resamples,).
        scores: One table of shape (runs, tasks) for each argument of the statistic.
        confidence: Share of the resamples within the interval, within (0, 1).
        resamples: How many.
        seed: Of the draws.

    Returns:
        Lower and upper bound; None where a table has a single run, which tells nothing of spread.

    Raises:
        ValueError: a table is not of that shape or is empty, or `confidence` is out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be within (0, 1), got {confidence}")
    tables = [_checked(table) for table in scores]
    if min(len(table) for table in tables) < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = [_resampled(table, resamples, random) for table in tables]
    tails = 50.0 * (1.0 - confidence)
    low, high = np.percentile(statistic(*drawn), [tails, 100.0 - tails])
    return float(low), float(high)


def _resampled(table: Array, resamples: int, random: np.random.Generator) -> Array:
    runs, tasks = table.shape
    chosen = random.integers(runs, size=(resamples, runs, tasks))
    return np.take_along_axis(table[None], chosen, axis=1)


def _checked(scores: ArrayLike) -> Array:
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"scores must have shape (runs, tasks), got {table.shape}")
    return table
