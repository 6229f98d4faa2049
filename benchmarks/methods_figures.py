"""Tables and figures of a sweep for the documents.

`python benchmarks/methods_figures.py SPEC docs/methods` writes, of each of its curricula,
PREFIX-CURRICULUM-intervals.svg, -cost.svg and -matrices.svg, and prints a table of every run, best
mean first. Runs that are not finished are left out.
"""

import argparse
from pathlib import Path

from clrl.eval import plots
from clrl.eval.comparison import Comparison, Method
from clrl.sweep import Sweep

HEAD = (
    "method|seeds|AP|mean|forgetting|worst skill kept|parameters|bytes kept|seconds in protections"
)


def main() -> None:
    """Draw what is finished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", help="the sweep's file")
    parser.add_argument("prefix", help="where the figures go, as docs/methods")
    options = parser.parse_args()
    comparison = Sweep.read(options.spec).comparison()
    if comparison is None:
        raise SystemExit(f"{options.spec}: no run of it is finished yet")
    for name in comparison.curricula:
        rows = comparison.rows(name)
        drawn = {"intervals": plots.intervals, "cost": plots.pareto, "matrices": plots.matrices}
        for what, draw in drawn.items():
            Path(f"{options.prefix}-{name}-{what}.svg").write_bytes(draw(rows))
        print(table(comparison, name))


def table(comparison: Comparison, curriculum: str) -> str:
    """All runs on a curriculum in Markdown, a line for each method."""
    columns = HEAD.split("|")
    rows = [columns, ["---"] * len(columns)]
    rows += [_cells(method) for method in comparison.curricula[curriculum]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _cells(method: Method) -> list[str]:
    costs = [result.cost for result in method.results]
    joint = method.name == "joint"  # what it forgets means nothing
    return [
        method.name,
        _span([result.seed for result in method.results]),
        _each(method, "average_performance", 3),
        f"{method.final.mean():.3f}",
        "-" if joint else _each(method, "forgetting", 3),
        "-" if joint else _each(method, "worst_retention", 2),
        *(f"{costs[0][name]:,.0f}" for name in ("parameters", "protection_bytes")),
        " ".join(f"{cost['protection_seconds']:.1f}" for cost in costs),
    ]


def _each(method: Method, metric: str, digits: int) -> str:
    """A metric of each run; 0 has no sign."""
    values = [result.metrics[metric] for result in method.results]
    return " ".join("-" if v is None else f"{round(v, digits) + 0.0:.{digits}f}" for v in values)


def _span(seeds: list[int]) -> str:
    whole = len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}-{seeds[-1]}" if whole else " ".join(map(str, seeds))


if __name__ == "__main__":
    main()
