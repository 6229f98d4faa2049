"""Pictures of a comparison, as SVG: matrices, curves, intervals, who beats whom, cost."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clrl.eval.comparison import Estimate, Method, Rows
from clrl.eval.figure import draw_matrix, draw_periods, dress_curves, line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 11.0  # inches
_INK, _FAINT, _MARK = "#222222", "#777777", "#0072B2"
_LEAST = 0.2  # width of an axis of success
_LONG = 36  # characters of a name
_INTERVALS = {
    "average_performance": "average performance",
    "iqm": "interquartile mean",
    "forgetting": "forgetting",
    "forward_transfer": "forward transfer",
    "worst_retention": "worst kept",
}
_COSTS = {
    "update_seconds": "seconds per 1,000 updates",
    "protection_bytes": "bytes kept by protections",
    "parameters": "parameters",
}


def matrices(rows: Rows) -> bytes:
    """Mean success matrix of each method, one heat map each."""
    count = len(rows[0][0].skills)
    per_row = max(1, min(4, int(_WIDE / (1.4 + 0.55 * count)), len(rows)))

    def draw(axes: "Axes", i: int) -> None:
        method = rows[i][0]
        mean = np.mean([result.matrix for result in method.results], axis=0)
        before = ["before", *(f"+ {skill}" for skill in method.skills)]
        draw_matrix(axes, mean, method.skills, before if i % per_row == 0 else [""] * (count + 1))
        axes.set_title(_title(i, method), fontsize=9)

    width = min(_WIDE, per_row * (1.2 + 0.75 * count))
    return _grid(draw, len(rows), per_row, 0.9 + 0.34 * (count + 1), width)


def curves(rows: Rows) -> bytes:
    """Success on each skill over training, mean of the seeds in front of every seed."""
    many = len(rows[0][0].skills) > 5
    per_row = min(1 if many else 2, len(rows))

    def draw(axes: "Axes", i: int) -> None:
        method = rows[i][0]
        _draw_curves(axes, method)
        axes.set_title(_title(i, method), fontsize=9, pad=46 if many else 18)

    return _grid(draw, len(rows), per_row, 3.6 if many else 2.7)


def intervals(rows: Rows) -> bytes:
    """Figures of all methods as points with their 95 % intervals, one panel a figure."""
    shown = [name for name in _INTERVALS if any(figures[name] for _, figures in rows)]
    names = [_title(i, method) for i, (method, _) in enumerate(rows)]

    def draw(axes: "Axes", i: int) -> None:
        for y, (_, figures) in enumerate(rows):
            if point := figures[shown[i]]:
                if point.low is not None and point.high is not None:
                    axes.plot([point.low, point.high], [y, y], color=_MARK, linewidth=2.5)
                axes.plot(point.value, y, "o", color=_INK, markersize=4)
        axes.set_yticks(range(len(rows)), names if i == 0 else [""] * len(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        low, high = axes.get_xlim()
        if high - low < _LEAST:  # what hardly differs should not look as if it did
            axes.set_xlim((low + high - _LEAST) / 2, (low + high + _LEAST) / 2)
        axes.set_title(_INTERVALS[shown[i]], fontsize=9)
        axes.grid(axis="x", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)

    return _grid(draw, len(shown), len(shown), 0.8 + 0.24 * len(rows))


def improvement(methods: Sequence[Method], chances: Sequence[Sequence[Estimate]]) -> bytes:
    """Probability that the row's method beats the column's, of all pairs."""
    count = len(methods)
    names = [_title(i, method) for i, method in enumerate(methods)]

    def draw(axes: "Axes", _: int) -> None:
        values = np.array([[chance.value for chance in row] for row in chances])
        axes.imshow(values, cmap="RdBu", vmin=0, vmax=1)
        axes.set_xticks(range(count), [str(i + 1) for i in range(count)])
        axes.set_yticks(range(count), names)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for i in range(count):
            for j in range(count):
                if i != j:
                    _draw_chance(axes, i, j, chances[i][j])

    return _grid(draw, 1, 1, 0.7 + 0.42 * count, width=3.2 + 0.72 * count)


def pareto(rows: Rows) -> bytes:
    """Average performance against costs; the line joins methods that none beats in both.

    Joint training, which is a bound and no method to choose, is beside it.
    """
    kept = np.array([_value(figures["average_performance"]) for _, figures in rows])
    costs = {name: np.array([_value(figures[name]) for _, figures in rows]) for name in _COSTS}
    in_turn = [k for k, (method, _) in enumerate(rows) if method.in_turn]
    telling = [name for name, cost in costs.items() if len(set(cost)) > 1]

    def draw(axes: "Axes", i: int) -> None:
        name = telling[i]
        cost = costs[name]
        front = [in_turn[k] for k in unbeaten(cost[in_turn], kept[in_turn])]
        axes.plot(cost[front], kept[front], color=_FAINT, linewidth=1, drawstyle="steps-post")
        for k, (x, y) in enumerate(zip(cost, kept, strict=True)):
            colour, above = (_MARK, 4) if k in front else (_FAINT, 2)
            dot: dict[str, Any] = {"color": colour, "markersize": 12, "alpha": 0.8, "zorder": above}
            axes.plot(x, y, "o", clip_on=False, **dot)
            text: dict[str, Any] = {"color": "white", "ha": "center", "va": "center", "fontsize": 7}
            axes.annotate(str(k + 1), (x, y), zorder=above, **text)
        if name == "protection_bytes":
            axes.set_xscale("symlog", linthresh=1e4)
        axes.set_xlabel(_COSTS[name])
        axes.set_ylabel("average performance" if i == 0 else "")
        axes.margins(0.12)
        axes.grid(color="#eeeeee", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)

    return _grid(draw, len(telling), len(telling), 3.4, width=4.2 * len(telling))


def unbeaten(cost: NDArray[np.float64], kept: NDArray[np.float64]) -> list[int]:
    """Indices of methods, cheapest first, than which none costs no more and keeps as much."""
    found: list[int] = []
    for k in np.lexsort((-kept, cost)).tolist():
        if not found or kept[k] > kept[found[-1]]:
            found.append(k)
    return found


def _draw_curves(axes: "Axes", method: Method) -> None:
    for i, skill in enumerate(method.skills):
        style = line_style(i, len(method.skills))
        lines = [np.array(curve[skill]) for curve in method.curves if curve.get(skill)]
        for line in lines if len(lines) > 1 else []:
            axes.plot(*line.T, **{**style, "linewidth": 0.7, "alpha": 0.4})
        if lines and all(np.array_equal(line[:, 0], lines[0][:, 0]) for line in lines):
            axes.plot(*np.mean(lines, axis=0).T, **style, clip_on=False)
    if method.ends and len(method.ends[0]) == len(method.skills):
        draw_periods(axes, method.skills, method.ends[0])
        axes.set_xlim(0, method.ends[0][-1])
    dress_curves(axes)


def _draw_chance(axes: "Axes", i: int, j: int, chance: Estimate) -> None:
    ink = "white" if abs(chance.value - 0.5) > 0.3 else _INK
    axes.text(j, i - 0.12, f"{chance.value:.2f}", color=ink, ha="center", va="center", fontsize=8)
    if chance.low is not None:
        text = f"{chance.low:.2f}-{chance.high:.2f}"
        axes.text(j, i + 0.24, text, color=ink, ha="center", va="center", fontsize=5.5)


def _grid(
    draw: Callable[["Axes", int], None],
    count: int,
    per_row: int,
    height: float,
    width: float = _WIDE,
) -> bytes:
    """SVG of `count` panels, `per_row` beside each other, each row `height` inches."""
    import matplotlib  # here, because it takes half a second
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = -(-count // per_row)
    settings: Any = {
        "font.size": 9,
        "text.color": _INK,
        "axes.edgecolor": _FAINT,
        "svg.hashsalt": "clrl",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, rows * height), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        panels = figure.subplots(rows, per_row, squeeze=False).flat
        for i, axes in enumerate(panels):
            if i < count:
                draw(axes, i)
            else:
                axes.set_axis_off()
        file = io.BytesIO()
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=unsaid)
    return file.getvalue()


def _title(i: int, method: Method) -> str:
    """A method with its number, which stands for it where there is no room for a long name."""
    name = method.name if len(method.name) <= _LONG else f"{method.name[: _LONG - 3]}..."
    return f"{i + 1}  {name}"


def _value(estimate: Estimate | None) -> float:
    return estimate.value if estimate else float("nan")
