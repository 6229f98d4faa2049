"""What every benchmark prints: a table for people and, with --json, one object on its last line."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


def machine() -> dict[str, Any]:
    """The machine the figures are of."""
    import mujoco
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mujoco": mujoco.__version__,
    }


def suite(name: str) -> list[str]:
    """Ids of the skills of a suite, "arm" or "cw10"."""
    from clrl.envs import CURRICULA, SKILLS

    return list(CURRICULA[name]) if name in CURRICULA else [s for s in SKILLS if s[:3] == "arm"]


def row(name: str, unit: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """Medians of alternating measurements; the ratio is the median of the pairs' ratios."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "name": name,
        "unit": unit,
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
    }


def report(rows: Sequence[Row], as_json: bool) -> None:
    """Print the rows."""
    print(f"{'':34}{'unit':>14}{'ours':>12}{'theirs':>12}{'ratio':>8}   spread")
    for r in rows:
        low, high = r["spread"]
        print(
            f"{r['name']:34}{r['unit']:>14}{r['ours']:12,.1f}{r['theirs']:12,.1f}"
            f"{r['ratio']:8.2f}   {low:.2f}-{high:.2f}"
        )
    if as_json:
        print(json.dumps({"machine": machine(), "rows": list(rows)}))


def arguments(text: str, configure: Callable[[argparse.ArgumentParser], None]) -> Any:
    """Command-line arguments with --json."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    configure(parser)
    return parser.parse_args()
