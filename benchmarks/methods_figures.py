"""Figures of a sweep for the documents: `python benchmarks/methods_figures.py SPEC docs/methods`.

Writes, of each of its curricula, PREFIX-CURRICULUM-intervals.svg, -cost.svg and -matrices.svg, and
prints the tables that `clrl compare` prints. Runs that are not finished are left out.
"""

import argparse
from pathlib import Path

from clrl.eval import plots
from clrl.sweep import Sweep


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
    print(comparison)


if __name__ == "__main__":
    main()
