"""Statistics over seeds: known answers, and the figures of rliable for the same scores.

The figures of rliable were made once with rliable 1.2.0 on arch 7.2.0: `aggregate_iqm`,
`aggregate_mean`, `probability_of_improvement`, and `get_interval_estimates` with 50,000 resamples
(5,000 for pairs), its percentile method and 95 %.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu, trim_mean

from clrl.eval import bootstrap

OURS = [
    [0.78, 0.68, 0.61, 0.75],
    [0.91, 0.56, 0.93, 0.86],
    [0.5, 0.72, 0.93, 0.46],
    [0.5, 0.7, 0.75, 0.64],
    [0.9, 0.5, 0.84, 0.87],
]
THEIRS = [
    [0.74, 0.43, 0.52, 0.6],
    [0.4, 0.85, 0.67, 0.65],
    [0.57, 0.69, 0.24, 0.57],
    [0.86, 0.76, 0.53, 0.69],
]
TABLES = arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(0, 1)
)


def test_figures_are_those_of_rliable() -> None:
    ours, theirs = np.array(OURS), np.array(THEIRS)
    assert bootstrap.iqm(ours) == pytest.approx(0.733)
    assert bootstrap.iqm(theirs) == pytest.approx(0.62125)
    assert bootstrap.mean(ours) == pytest.approx(0.7195)
    assert bootstrap.probability_of_improvement(ours, theirs) == pytest.approx(0.6625)


@pytest.mark.parametrize(
    ("statistic", "scores", "bounds"),
    [
        (bootstrap.iqm, [OURS], (0.635, 0.808)),
        (bootstrap.mean, [OURS], (0.6555, 0.7795)),
        (bootstrap.probability_of_improvement, [OURS, THEIRS], (0.4875, 0.8375)),
    ],
)
def test_intervals_are_those_of_rliable(
    statistic: bootstrap.Statistic, scores: list[list[list[float]]], bounds: tuple[float, float]
) -> None:
    assert bootstrap.interval(statistic, *scores, resamples=20_000) == pytest.approx(
        bounds, abs=0.007
    )


@given(TABLES)
def test_iqm_is_the_trimmed_mean(scores: bootstrap.Array) -> None:
    assert bootstrap.iqm(scores) == pytest.approx(float(trim_mean(scores, 0.25, axis=None)))


@given(TABLES, st.integers(1, 5), st.integers(0, 99))
def test_improvement_is_mann_whitneys_u(scores: bootstrap.Array, runs: int, seed: int) -> None:
    theirs = np.random.default_rng(seed).choice(scores.ravel(), (runs, scores.shape[1]))
    chances = [
        mannwhitneyu(a, b).statistic / (len(a) * len(b))
        for a, b in zip(scores.T, theirs.T, strict=True)
    ]
    chance = bootstrap.probability_of_improvement(scores, theirs)
    assert chance == pytest.approx(np.mean(chances))
    assert chance + bootstrap.probability_of_improvement(theirs, scores) == pytest.approx(1.0)


def test_an_interval_draws_each_task_on_its_own() -> None:
    """Each of two runs is good at one of two tasks: of whole runs, the mean would never move."""
    low, high = bootstrap.interval(bootstrap.mean, [[0.0, 1.0], [1.0, 0.0]]) or (0.5, 0.5)
    assert (low, high) == (0.0, 1.0)


def test_an_interval_of_the_mean_is_as_wide_as_theory_says() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.1, (400, 1))
    low, high = bootstrap.interval(bootstrap.mean, scores) or (0.0, 0.0)
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.05)


def test_one_run_has_no_interval_and_the_same_draws_give_the_same() -> None:
    assert bootstrap.interval(bootstrap.mean, OURS[:1]) is None
    assert bootstrap.interval(bootstrap.probability_of_improvement, OURS, THEIRS[:1]) is None
    assert bootstrap.interval(bootstrap.mean, OURS) == bootstrap.interval(bootstrap.mean, OURS)
    assert bootstrap.interval(bootstrap.mean, OURS, seed=1) != bootstrap.interval(
        bootstrap.mean, OURS
    )


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], [[]]])
def test_other_shapes_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match=r"scores must have shape \(runs, tasks\)"):
        bootstrap.interval(bootstrap.mean, scores)
    with pytest.raises(ValueError, match=r"confidence must be within"):
        bootstrap.interval(bootstrap.mean, OURS, confidence=1.0)
