"""A result as people read it in a terminal: the matrix, and what follows from it."""

import io
import sys
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from clrl.eval.metrics import FORMULAS

if TYPE_CHECKING:
    from clrl.eval.retention import Retention

_ENDLESS = 10_000  # columns; rich would cut what does not fit, a terminal wraps it


def table(retention: "Retention", *, colour: bool | None = None) -> str:
    """The success matrix, the metrics with their formulas, the protocol and the cost.

    Args:
        retention: What to show.
        colour: Whether to use terminal escape codes; None means only if stdout is a terminal.

    Returns:
        Lines without a newline at the end, in characters that stdout can encode.
    """
    is_terminal = bool(sys.stdout and sys.stdout.isatty())
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    page = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace", newline="\n")
    console = Console(
        file=page,
        force_terminal=is_terminal if colour is None else colour,
        width=_ENDLESS,
        highlight=False,
    )
    matrix = _matrix(retention)
    if is_terminal and console.measure(matrix).maximum > get_terminal_size().columns:
        matrix = _matrix(retention, folded=True)
    heading = Text(title(retention), style="bold")
    parts = (heading, matrix, _metrics(retention), _notes(retention))
    console.print(Group(*(line for part in parts for line in (part, Text()))))
    page.seek(0)
    return "\n".join(line.rstrip() for line in page.read().splitlines()).rstrip()


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
        f"cost      {_duration(cost['wall_seconds'])} (training "
        f"{_duration(cost['train_seconds'])}, evaluation {_duration(cost['eval_seconds'])}, "
        f"protections {_duration(cost['protection_seconds'])}), {cost['env_steps']:,} env steps, "
        f"{cost['updates']:,} updates, {cost['parameters']:,} parameters, protections keep "
        f"{_size(cost['protection_bytes'])}",
    )
    return Text("\n".join(lines))


def percent(rate: float) -> str:
    """A rate in [0, 1] as "98 %"."""
    return f"{100 * rate:.0f} %"


def _each(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _duration(seconds: float) -> str:
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
