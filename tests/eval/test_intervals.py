import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from clrl.eval.intervals import wilson


@given(
    st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]),
)
def test_bounds_are_those_of_scipy(counts: tuple[int, int], confidence: float) -> None:
    expected = binomtest(*counts).proportion_ci(confidence, method="wilson")
    low, high = wilson(*counts, confidence=confidence)
    np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=1e-12)
    assert 0.0 <= low <= counts[0] / counts[1] <= high <= 1.0


def test_certain_outcomes_still_have_a_width() -> None:
    low, high = wilson([0, 100], 100)
    assert low[0] == 0.0
    assert high[0] == pytest.approx(0.037, abs=1e-3)
    assert low[1] == pytest.approx(0.963, abs=1e-3)
    assert high[1] == 1.0


def test_arrays_broadcast() -> None:
    low, high = wilson(np.full((3, 2), 5), np.array([10, 20]))
    assert low.shape == high.shape == (3, 2)
    assert (low[:, 0] == wilson(5, 10)[0]).all()


@pytest.mark.parametrize(
    ("successes", "episodes", "confidence", "message"),
    [
        (1, 0, 0.95, "episodes must be >= 1, got 0"),
        (11, 10, 0.95, r"successes must be within \[0, episodes\], got 11 of 10"),
        (np.nan, 10, 0.95, "got nan of 10"),
        (-1, 10, 0.95, "got -1 of 10"),
        (1, 10, 1.0, r"confidence must be within \(0, 1\), got 1.0"),
    ],
)
def test_impossible_counts_are_refused(
    successes: float, episodes: int, confidence: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        wilson(successes, episodes, confidence)
