"""What follows from a success matrix: every metric is a pure function of it.

A success matrix has shape (N + 1, N) for N skills, dimensionless in [0, 1]. Row 0 was measured
before training, row i after training skill i; column j is skill j. Read down a column to watch one
skill being learned and lost. p_i(t) is the success on skill i at time t, T the end of training.

The definitions are those of Continual World (Wolczyk et al., 2021,
https://arxiv.org/abs/2105.10919) unless a function says otherwise.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]

LEARNED = 0.5  # a skill below this success at the end of its own training has nothing to retain

FORMULAS: dict[str, str] = {
    "average_performance": "mean_i p_i(T)",
    "forgetting": "mean_i [p_i(end of i) - p_i(T)], the last skill included",
    "backward_transfer": "mean over i < N of [p_i(T) - p_i(end of i)]",
    "forward_transfer": "mean_i (AUC_i - AUC_i^b) / (1 - AUC_i^b), b = trained alone",
    "retention": "mean over skills with p_i(end of i) >= 0.5 of p_i(T) / p_i(end of i)",
    "worst_retention": "min over skills with p_i(end of i) >= 0.5 of p_i(T) / p_i(end of i)",
}
"""How each metric is computed, to be printed where its number is."""


def average_performance(matrix: ArrayLike) -> float:
    """Mean success over all skills at the end: mean_i p_i(T).

    Args:
        matrix: Success matrix, shape (N + 1, N).

    Returns:
        A success rate in [0, 1].

    Raises:
        ValueError: The matrix has another shape, or a value outside [0, 1].
    """
    return float(checked(matrix)[-1].mean())


def forgetting(matrix: ArrayLike) -> float:
    """Mean success lost since each skill was learned: mean_i [p_i(end of i) - p_i(T)].

    Signed, so a negative value is improvement. The mean includes the last skill, whose term is 0,
    as Continual World defines it. Chaudhry et al. (2018, https://arxiv.org/abs/1801.10112) leave
    the last skill out and subtract from the maximum so far instead.

    Args:
        matrix: Success matrix, shape (N + 1, N).

    Returns:
        Success points in [-1, 1].

    Raises:
        ValueError: The matrix has another shape, or a value outside [0, 1].
    """
    table = checked(matrix)
    return float((when_learned(table) - table[-1]).mean())


def backward_transfer(matrix: ArrayLike) -> float:
    """Mean change of the earlier skills: mean over i < N of [p_i(T) - p_i(end of i)].

    This is BWT of GEM (Lopez-Paz and Ranzato, 2017, https://arxiv.org/abs/1706.08840). Negative
    values are forgetting; 0 for a single skill, which nothing followed.

    Args:
        matrix: Success matrix, shape (N + 1, N).

    Returns:
        Success points in [-1, 1].

    Raises:
        ValueError: The matrix has another shape, or a value outside [0, 1].
    """
    table = checked(matrix)
    if table.shape[1] == 1:
        return 0.0
    return float((table[-1] - when_learned(table))[:-1].mean())


def forward_transfer(auc: ArrayLike, baseline_auc: ArrayLike) -> float:
    """How much faster skills are learned than alone: mean_i (AUC_i - AUC_i^b) / (1 - AUC_i^b).

    Args:
        auc: Mean success over each skill's own training, shape (N,), in [0, 1].
        baseline_auc: The same for each skill trained alone, shape (N,), in [0, 1).

    Returns:
        1 if every skill was mastered from its first step on, 0 if nothing was gained, negative if
        the earlier skills were in the way.

    Raises:
        ValueError: The shapes differ, or a value is out of its range.
    """
    return float(forward_transfer_per_skill(auc, baseline_auc).mean())


def forward_transfer_per_skill(auc: ArrayLike, baseline_auc: ArrayLike) -> Matrix:
    """The terms of `forward_transfer`, shape (N,); arguments and errors as there."""
    areas, alone = np.asarray(auc, np.float64), np.asarray(baseline_auc, np.float64)
    if areas.ndim != 1 or areas.size == 0 or areas.shape != alone.shape:
        raise ValueError(
            f"auc and baseline_auc must both have shape (N,), got {areas.shape} and {alone.shape}"
        )
    _refuse_outside("auc", areas)
    _refuse_outside("baseline_auc", alone)
    if alone.max() == 1.0:
        raise ValueError("baseline_auc must be < 1, got 1.0: nothing is left to gain")
    return (areas - alone) / (1.0 - alone)


def retention_per_skill(matrix: ArrayLike) -> Matrix:
    """Share of its learned success that each skill kept: p_i(T) / p_i(end of i).

    1 is kept, 0 is forgotten, above 1 means that later skills helped. A ratio, unlike
    `forgetting`, does not reward an agent for having learned little in the first place.

    Args:
        matrix: Success matrix, shape (N + 1, N).

    Returns:
        Shape (N,), at least 0; NaN where the skill was never learned, p_i(end of i) < 0.5.

    Raises:
        ValueError: The matrix has another shape, or a value outside [0, 1].
    """
    table = checked(matrix)
    learned = when_learned(table)
    kept = np.full(learned.shape, np.nan)
    np.divide(table[-1], learned, out=kept, where=learned >= LEARNED)
    return kept


def retention(matrix: ArrayLike) -> float | None:
    """Mean of `retention_per_skill` over the learned skills; None if none was learned."""
    kept = retention_per_skill(matrix)
    return None if np.isnan(kept).all() else float(np.nanmean(kept))


def worst_retention(matrix: ArrayLike) -> float | None:
    """Minimum of `retention_per_skill` over the learned skills; None if none was learned."""
    kept = retention_per_skill(matrix)
    return None if np.isnan(kept).all() else float(np.nanmin(kept))


def metrics(matrix: ArrayLike, forward_transfer: float | None = None) -> dict[str, float | None]:
    """All metrics of one run, in the order in which they are printed.

    Args:
        matrix: Success matrix, shape (N + 1, N).
        forward_transfer: Result of the function of that name; it needs learning curves and
            baselines, which a matrix does not hold. None without a baseline.

    Returns:
        One value for each key of `FORMULAS`; None where it is undefined.

    Raises:
        ValueError: The matrix has another shape, or a value outside [0, 1].
    """
    return {
        "average_performance": average_performance(matrix),
        "forgetting": forgetting(matrix),
        "backward_transfer": backward_transfer(matrix),
        "forward_transfer": forward_transfer,
        "retention": retention(matrix),
        "worst_retention": worst_retention(matrix),
    }


def when_learned(matrix: Matrix) -> Matrix:
    """Success on each skill at the end of its own training, p_i(end of i), shape (N,)."""
    return np.diagonal(matrix, offset=-1)


def checked(matrix: ArrayLike) -> Matrix:
    """The matrix as float64 if it is a success matrix, shape (N + 1, N); ValueError if not."""
    table = np.asarray(matrix, np.float64)
    if table.ndim != 2 or table.shape[1] == 0 or table.shape[0] != table.shape[1] + 1:
        raise ValueError(f"a success matrix must have shape (N + 1, N), got {table.shape}")
    _refuse_outside("success", table)
    return table


def _refuse_outside(name: str, values: Matrix) -> None:
    outside = ~((values >= 0.0) & (values <= 1.0))  # negated, so that NaN is outside too
    if outside.any():
        raise ValueError(f"{name} must be within [0, 1], got {values[outside][0]}")
