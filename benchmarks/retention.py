"""One table over many runs: what each protection kept and what it cost.

Give it the run directories; it groups them by curriculum, agent and protections.
"""

import argparse
import statistics
from pathlib import Path

from clrl.eval import Retention


def main() -> None:
    """Print the table in Markdown, one line per group and one per run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories")
    groups: dict[tuple[str, str, str], list[Retention]] = {}
    for path in parser.parse_args().runs:
        result = Retention.load(path / "retention.json")
        protections = " + ".join(result.protections) or "none"
        groups.setdefault((result.curriculum, result.agent, protections), []).append(result)
    print("| curriculum | agent | protections | seed | AP | forgetting | train s | wall s | kept |")
    print("|---|---|---|---|---|---|---|---|---|")
    for key, results in groups.items():
        results.sort(key=lambda r: r.seed)
        for result in results:
            print(line(key, str(result.seed), [result]))
        if len(results) > 1:
            print(line(key, f"mean of {len(results)}", results))


def line(key: tuple[str, str, str], seed: str, results: list[Retention]) -> str:
    """One row: means over results."""

    def mean(values: list[float]) -> float:
        return statistics.fmean(values)

    performance = mean([float(r.metrics["average_performance"] or 0.0) for r in results])
    forgetting = mean([float(r.metrics["forgetting"] or 0.0) for r in results])
    train = mean([r.cost["train_seconds"] for r in results])
    wall = mean([r.cost["wall_seconds"] for r in results])
    kept = mean([r.cost["protection_bytes"] for r in results]) / 1e6
    cells = [*key, seed, f"{performance:.3f}", f"{forgetting:.3f}", f"{train:.0f}", f"{wall:.0f}"]
    return "| " + " | ".join([*cells, f"{kept:.1f} MB"]) + " |"


if __name__ == "__main__":
    main()
