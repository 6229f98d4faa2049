"""A result as a picture: the success matrix beside the learning curves."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clrl.eval import atomic
from clrl.eval.report import moments, percent, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from clrl.eval.metrics import Matrix
    from clrl.eval.retention import Retention

Curves = Mapping[str, Sequence[tuple[float, float]]]

_DPI = 160
_INK, _FAINT = "#222222", "#777777"
# Okabe and Ito's colours for every kind of colour vision, without black and the pale yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))  # tell skills apart where the colours repeat
_MANY = 5  # skills; more than that need slanted names


def plot(
    retention: "Retention",
    curves: Curves,
    path: str | os.PathLike[str],
    *,
    ends: Sequence[float] | None = None,
) -> None:
    """Draw the matrix as a heat map and, beside it, success over the whole training.

    Args:
        retention: What to draw.
        curves: For each skill, success in [0, 1] at rising counts of environment steps, as pairs
            (env steps, success); skills may be missing. Without any, only the matrix is drawn.
        path: The PNG to write.
        ends: Environment steps at which the training of each skill ended, N rising values. Without
            them the periods of training are not marked.

    Raises:
        OSError: The file cannot be written.
        ValueError: `curves` names an unknown skill, or `ends` are not N rising values.
    """
    _check(retention, curves, ends)
    import matplotlib  # here, because it takes half a second
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    count = len(retention.skills)
    has_curves = any(curves.values())
    left, right = 2.9 + 0.5 * count, 5.6 + 0.15 * count  # inches
    with matplotlib.rc_context({"font.size": 10, "text.color": _INK, "axes.edgecolor": _FAINT}):
        size = (left + right * has_curves, max(4.2, 1.9 + 0.46 * count))
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)  # inches
        figure = Figure(figsize=size, dpi=_DPI, layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(
            1, 1 + has_curves, squeeze=False, width_ratios=(left, right)[: 1 + has_curves]
        )[0]
        _draw_matrix(figure, axes[0], retention)
        if has_curves:
            _draw_curves(axes[1], retention.skills, curves, ends)
        _draw_title(figure, retention, has_curves)
        image = io.BytesIO()
        figure.savefig(image, format="png")
    atomic.replace(path, image.getvalue())


def _check(retention: "Retention", curves: Curves, ends: Sequence[float] | None) -> None:
    for skill in curves:
        if skill not in retention.skills:
            raise ValueError(f"curves must be of skills {list(retention.skills)}, got {skill!r}")
    if ends is None:
        return
    starts = (0.0, *ends)
    rises = all(start < end for start, end in zip(starts, ends, strict=False))
    if len(ends) != len(retention.skills) or not rises:
        raise ValueError(f"ends must be {len(retention.skills)} rising steps, got {list(ends)}")


def _draw_title(figure: "Figure", retention: "Retention", has_room: bool) -> None:
    performance = retention.metrics["average_performance"] or 0.0
    lost = 100 * (retention.metrics["forgetting"] or 0.0)
    result = f"average performance {percent(performance)}, forgetting {lost:.0f} points"
    gap = "   |   " if has_room else "\n"
    figure.suptitle(f"{title(retention)}{gap}{result}", fontsize=11, fontweight="bold")


def _draw_matrix(figure: "Figure", axes: "Axes", retention: "Retention") -> None:
    image = draw_matrix(axes, retention.matrix, retention.skills, moments(retention))
    bar = figure.colorbar(image, ax=axes, ticks=range(0, 101, 25), format="%d %%", aspect=28)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9)
    axes.set_title("success after each skill", fontsize=10, color=_FAINT)


def draw_matrix(
    axes: "Axes", matrix: "Matrix", columns: Sequence[str], rows: Sequence[str], **text: Any
) -> "AxesImage":
    """Draw a success matrix as a heat map with its numbers; `text` styles these."""
    count = len(columns)
    image = axes.imshow(100 * matrix, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(count), columns, **(slant if count > 3 else {}))
    axes.set_yticks(range(count + 1), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for i in range(count):
        axes.axhline(i + 0.5, color="white", linewidth=1.5)
        if i:
            axes.axvline(i - 0.5, color="white", linewidth=1.5)
    for i, row in enumerate(matrix):
        for j, rate in enumerate(row):
            ink = _INK if rate > 0.6 else "white"
            weight = "bold" if j == i - 1 else "normal"  # the skill just trained
            style = {"color": ink, "weight": weight, **text}
            axes.text(j, i, percent(rate), ha="center", va="center", **style)
    return image


def _draw_curves(
    axes: "Axes", skills: Sequence[str], curves: Curves, ends: Sequence[float] | None
) -> None:
    for i, skill in enumerate(skills):
        if points := curves.get(skill):
            steps, success = zip(*points, strict=True)
            axes.plot(steps, success, label=skill, clip_on=False, **line_style(i, len(skills)))
    if ends:
        draw_periods(axes, skills, ends)
    axes.set_xlim(0, max([x for line in curves.values() for x, _ in line] + list(ends or ())))
    dress_curves(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def line_style(i: int, count: int) -> dict[str, Any]:
    """How the line of skill `i` of `count` is drawn, the same in every picture."""
    dash = _DASHES[i // len(_COLOURS) % len(_DASHES)]
    width = 1.3 if count > _MANY else 1.8
    return {"color": _COLOURS[i % len(_COLOURS)], "linestyle": dash, "linewidth": width}


def dress_curves(axes: "Axes") -> None:
    """Label axes of success over environment steps."""
    from matplotlib.ticker import EngFormatter, PercentFormatter

    axes.set_ylim(0, 1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("environment steps")
    axes.set_ylabel("success")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def draw_periods(axes: "Axes", skills: Sequence[str], ends: Sequence[float]) -> None:
    """Shade the period in which each skill was trained, and name the skill above it."""
    slant: dict[str, Any] = {"rotation": 35, "ha": "left"} if len(skills) > _MANY else {}
    for i, (start, end) in enumerate(zip((0.0, *ends), ends, strict=False)):
        colour = _COLOURS[i % len(_COLOURS)]
        axes.axvspan(start, end, color=colour, alpha=0.1, linewidth=0)
        axes.axvline(end, color=_FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            skills[i],
            ((start + end) / 2, 1.0),
            (0, 6),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=colour,
            weight="bold",
            **{"ha": "center", **slant},
        )
