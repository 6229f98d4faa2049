"""A result as people read it in a terminal: the matrix, and what follows from it."""

import io
import sys
from collections.abc import Callable, Mapping
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from clrl.eval.metrics import FORMULAS

if TYPE_CHECKING:
    from clrl.eval.comparison import Comparison, Estimate, Rows
    from clrl.eval.retention import Retention

_ENDLESS = 10_000  # columns; rich would cut what does not fit, a terminal wraps it

KEPT = {
    "average_performance": "AP",
    "iqm": "IQM",
    "forgetting": "forgetting",
    "backward_transfer": "backward",
    "forward_transfer": "forward",
    "worst_retention": "worst kept",
}
COST = {
    "average_performance": "AP",
    "train_seconds": "training s",
    "eval_seconds": "evaluation s",
    "update_seconds": "s / 1,000 updates",
    "update_overhead": "over none s",
    "parameters": "parameters",
    "protection_bytes": "bytes kept",
}
"""Columns of a comparison: what was kept, and beside it what that cost."""

BASIS = (
    "means over seeds with 95 % intervals, stratified bootstrap over seeds by skill; "
    "- where undefined, no interval for one seed"
)


def table(retention: "Retention", *, colour: bool | None = None) -> str:
    """The success matrix, the metrics with their formulas, the protocol and the cost.

    Args:
        retention: What to show.
        colour: Whether to use terminal escape codes; None means only if stdout is a terminal.

    Returns:
        Lines without a newline at the end, in characters that stdout can encode.
    """
    console = _console(colour)
    matrix = _matrix(retention)
    if _is_terminal() and console.measure(matrix).maximum > get_terminal_size().columns:
        matrix = _matrix(retention, folded=True)
    heading = Text(title(retention), style="bold")
    return _printed(console, heading, matrix, _metrics(retention), _notes(retention))


def comparison_table(comparison: "Comparison", *, colour: bool | None = None) -> str:
    """What each method kept and what it cost, the best average performance first.

    Args:
        comparison: What to show.
        colour: As for `table`.

    Returns:
        As `table` does.
    """
    parts: list[Text | Table] = []
    for curriculum in comparison.curricula:
        rows = comparison.rows(curriculum)
        parts += [Text(f"{curriculum}: what is kept", style="bold"), _methods(rows, KEPT)]
        parts += [Text(f"{curriculum}: what it costs", style="bold"), _methods(rows, COST)]
    parts.append(Text(BASIS))
    return _printed(_console(colour), *parts)


def defined(columns: Mapping[str, str], rows: "Rows") -> dict[str, str]:
    """Those columns of which any method has a figure."""
    return {
        name: title
        for name, title in columns.items()
        if any(figures[name] is not None for _, figures in rows)
    }


def _methods(rows: "Rows", chosen: Mapping[str, str]) -> Table:
    columns = defined(chosen, rows)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    grid.add_column("method")
    grid.add_column("seeds", justify="right")
    for heading in columns.values():
        grid.add_column(heading)
    for method, figures in rows:
        cells = [" ".join(shown(column, figures[column])) for column in columns]
        if chosen is COST:  # of success, the figure will do there
            cells[0] = shown("average_performance", figures["average_performance"])[0]
        grid.add_row(Text(method.name), str(len(method.results)), *map(Text, cells))
    return grid


def shown(column: str, estimate: "Estimate | None") -> tuple[str, str]:
    """A figure of a comparison and its interval, as text; "-" where there is none."""
    if estimate is None:
        return "-", ""
    form = _FORMS.get(column, "{:.3f}".format)
    if estimate.low is None or estimate.high is None or column in _PLAIN:
        return form(estimate.value), ""
    return form(estimate.value), f"({form(estimate.low)} to {form(estimate.high)})"


def _is_terminal() -> bool:
    return bool(sys.stdout and sys.stdout.isatty())


def _console(colour: bool | None) -> Console:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding, errors="replace", newline="\n"),
        force_terminal=_is_terminal() if colour is None else colour,
        width=_ENDLESS,
        highlight=False,
    )


def _printed(console: Console, *parts: Text | Table) -> str:
    console.print(Group(*(line for part in parts for line in (part, Text()))))
    console.file.seek(0)
    return "\n".join(line.rstrip() for line in console.file.read().splitlines()).rstrip()


def title(retention: "Retention") -> str:
    """One line that tells a run from others: curriculum, agent, protections, seed."""
    names = " + ".join((retention.agent, *retention.protections))
    return f"{retention.curriculum}: {names}, seed {retention.seed}"


def moments(retention: "Retention") -> list[str]:
    """Names of the matrix rows, N + 1 of them: "before training", "after reach", ..."""
    ends: list[str] | tuple[str, ...] = retention.skills
    if "joint" in retention.protections:  # all skills at once; rows are equal shares of training
        ends = [f"{i + 1}/{len(retention.skills)} of training" for i in range(len(ends))]
    return ["before training", *(f"after {end}" for end in ends)]


def _matrix(retention: "Retention", folded: bool = False) -> Table:
    """The success matrix; `folded` puts intervals below the rates, where columns are scarce."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    grid.add_column("success")
    for skill in retention.skills:
        grid.add_column(Text(skill), justify="right" if folded else "left", no_wrap=True)
    for i, moment in enumerate(moments(retention)):
        cells = [_cell(retention, i, j, folded) for j in range(len(retention.skills))]
        grid.add_row(Text(moment), *cells)
    return grid


def _cell(retention: "Retention", i: int, j: int, folded: bool) -> Text:
    low, high = retention.success_low[i][j], retention.success_high[i][j]
    style = "bold" if j == i - 1 else "" if j < i else "dim"  # skills still to come stand back
    gap = "\n" if folded else " "
    interval = f"{gap}({100 * low:.0f}-{100 * high:.0f})"
    rate = f"{percent(retention.success[i][j]):>{0 if folded else 5}}"
    return Text.assemble((rate, style), (interval, "dim"))


def _metrics(retention: "Retention") -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, formula in FORMULAS.items():
        value = retention.metrics[name]
        number = Text("-" if value is None else f"{value:.3f}", style="bold", justify="right")
        grid.add_row(name.replace("_", " "), number, Text(formula, style="dim"))
    return grid


def _notes(retention: "Retention") -> Text:
    protocol, cost = retention.protocol, retention.cost
    actions = "deterministic" if protocol["deterministic"] else "sampled"
    lines = (
        f"protocol  {protocol['episodes']:,} episodes a cell, 95 % Wilson intervals, horizon "
        f"{_each(protocol['horizon'])} steps, success {_each(protocol['success'])}, {actions} "
        f"actions, seed {protocol['seed']}, {protocol['device']}",
        f"cost      {duration(cost['wall_seconds'])} (training "
        f"{duration(cost['train_seconds'])}, evaluation {duration(cost['eval_seconds'])}, "
        f"protections {duration(cost['protection_seconds'])}), {cost['env_steps']:,} env steps, "
        f"{cost['updates']:,} updates, {cost['parameters']:,} parameters, protections keep "
        f"{_size(cost['protection_bytes'])}",
    )
    return Text("\n".join(lines))


def percent(rate: float) -> str:
    """A rate in [0, 1] as "98 %"."""
    return f"{100 * rate:.0f} %"


def _each(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def duration(seconds: float) -> str:
    """Seconds as "12.3 s", "3 min 50 s" or "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


_PLAIN = ("parameters", "protection_bytes")  # alike for every seed
_FORMS: dict[str, Callable[[float], str]] = {
    "train_seconds": "{:.0f}".format,
    "eval_seconds": "{:.0f}".format,
    "update_seconds": "{:.3g}".format,
    "update_overhead": "{:+.3g}".format,
    "parameters": "{:,.0f}".format,
    "protection_bytes": _size,
}
