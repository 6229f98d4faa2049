import numpy as np
import pytest

from clrl.eval import metrics as m

# Skill 0 is learned, then half lost; skill 1 is learned last.
HALF_LOST = np.array([[0.0, 0.1], [0.8, 0.1], [0.4, 0.9]])
FUNCTIONS = (
    m.average_performance,
    m.forgetting,
    m.backward_transfer,
    m.retention_per_skill,
    m.retention,
    m.worst_retention,
    m.metrics,
)


def test_average_performance_is_the_mean_of_the_last_row() -> None:
    assert m.average_performance(HALF_LOST) == pytest.approx(0.65)


def test_forgetting_counts_the_last_skill_with_zero() -> None:
    assert m.forgetting(HALF_LOST) == pytest.approx(0.2)


def test_forgetting_is_negative_where_later_skills_helped() -> None:
    assert m.forgetting([[0.0, 0.0], [0.5, 0.0], [0.7, 1.0]]) == pytest.approx(-0.1)


def test_backward_transfer_leaves_the_last_skill_out() -> None:
    assert m.backward_transfer(HALF_LOST) == pytest.approx(-0.4)


def test_one_skill_has_nothing_to_forget() -> None:
    assert m.backward_transfer([[0.0], [1.0]]) == 0.0
    assert m.forgetting([[0.0], [1.0]]) == 0.0
    assert m.retention([[0.0], [1.0]]) == 1.0


def test_retention_of_a_half_lost_skill_is_one_half() -> None:
    np.testing.assert_allclose(m.retention_per_skill(HALF_LOST), [0.5, 1.0])
    assert m.retention(HALF_LOST) == pytest.approx(0.75)
    assert m.worst_retention(HALF_LOST) == pytest.approx(0.5)


def test_a_skill_never_learned_is_left_out_of_retention() -> None:
    matrix = np.array([[0, 0], [0.49, 0], [0.49, 0.8]])
    np.testing.assert_array_equal(m.retention_per_skill(matrix), [np.nan, 1.0])
    assert m.retention(matrix) == 1.0
    assert m.worst_retention(matrix) == 1.0


def test_a_skill_at_the_threshold_was_learned() -> None:
    assert m.retention([[0.0], [0.5]]) == 1.0


def test_retention_is_undefined_where_nothing_was_learned() -> None:
    assert m.retention(np.zeros((3, 2))) is None
    assert m.worst_retention(np.zeros((3, 2))) is None


def test_forward_transfer_is_the_gain_over_what_was_left_to_gain() -> None:
    assert m.forward_transfer([0.75, 0.5], [0.5, 0.5]) == pytest.approx(0.25)
    assert m.forward_transfer([0.0], [0.5]) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("auc", "alone", "message"),
    [
        ([0.5, 0.5], [0.5], r"shape \(N,\), got \(2,\) and \(1,\)"),
        ([], [], r"shape \(N,\), got \(0,\)"),
        ([1.5], [0.5], r"^auc must be within \[0, 1\], got 1.5"),
        ([0.5], [np.nan], r"^baseline_auc must be within \[0, 1\], got nan"),
        ([0.5], [1.0], "baseline_auc must be < 1, got 1.0"),
    ],
)
def test_forward_transfer_refuses(auc: list[float], alone: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        m.forward_transfer(auc, alone)


def test_metrics_have_a_formula_each() -> None:
    values = m.metrics(HALF_LOST, forward_transfer=0.3)
    assert list(values) == list(m.FORMULAS)
    assert values["forward_transfer"] == 0.3
    assert values["retention"] == m.retention(HALF_LOST)
    assert m.metrics(HALF_LOST)["forward_transfer"] is None


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (1, 0), (3,), (4, 2)])
def test_another_shape_is_refused(function: object, shape: tuple[int, ...]) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=r"must have shape \(N \+ 1, N\), got \("):
        function(np.zeros(shape))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_a_value_that_is_no_rate_is_refused(function: object, value: float) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=rf"success must be within \[0, 1\], got {value}"):
        function([[0, 0], [0.5, value], [0.5, 0.5]])
