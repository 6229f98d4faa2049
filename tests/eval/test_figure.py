from pathlib import Path

import pytest

from clrl.eval.figure import plot
from clrl.eval.retention import Retention

CURVES = {"reach": [(0, 0.0), (1e5, 0.8), (4e5, 0.4)], "push": [(0, 0.0), (4e5, 0.9)]}


def width(path: Path) -> int:
    """Width of a PNG, pixels."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20])


def test_the_curves_stand_beside_the_matrix(result: Retention, tmp_path: Path) -> None:
    both, alone = tmp_path / "both.png", tmp_path / "alone.png"
    plot(result, CURVES, both, ends=[2e5, 4e5])
    plot(result, {}, alone)
    assert width(both) > 1400
    assert width(alone) < width(both)


def test_a_skill_without_a_curve_is_left_out(result: Retention, tmp_path: Path) -> None:
    plot(result, {"reach": CURVES["reach"], "push": []}, tmp_path / "retention.png")
    assert (tmp_path / "retention.png").exists()


def test_the_interactive_state_of_matplotlib_is_left_alone(
    result: Retention, tmp_path: Path
) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot(result, CURVES, tmp_path / "retention.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("ends", [[1.0], [2.0, 1.0], [0.0, 1.0], [1.0, 2.0, 3.0]])
def test_ends_must_rise_one_a_skill(result: Retention, tmp_path: Path, ends: list[float]) -> None:
    with pytest.raises(ValueError, match=r"ends must be 2 rising steps, got \["):
        plot(result, CURVES, tmp_path / "retention.png", ends=ends)


def test_a_curve_must_be_of_a_known_skill(result: Retention, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"curves must be of skills \['reach', 'push'\]"):
        plot(result, {"fly": []}, tmp_path / "retention.png")


def test_a_folder_that_is_not_there_is_an_os_error(result: Retention, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        plot(result, CURVES, tmp_path / "absent" / "retention.png")
