"""Latency of an exported policy on one thread, batch 1, beside SB3's `predict` of the same agent.

Ours is the whole call of the runtime with its checks; theirs is `predict` on the same observation.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import Row, arguments, report

from clrl import deploy, export
from clrl.run import Run

_ROUNDS = 5


def percentiles(call: Callable[[int], Any], calls: int) -> tuple[float, float]:
    """p50 and p99 of a call, us."""
    seconds = np.empty(calls)
    for i in range(-200, calls):
        start = time.perf_counter()
        call(i)
        seconds[max(i, 0)] = time.perf_counter() - start
    p50, p99 = np.percentile(1e6 * seconds, [50, 99])
    return float(p50), float(p99)


def latency_row(name: str, ours: list[float], theirs: list[float]) -> Row:
    """Medians over the rounds; the ratio says how many times faster ours is."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "name": name,
        "unit": "us",
        "ours": float(np.median(ours)),
        "theirs": float(np.median(theirs)),
        "ratio": float(np.median(ratios)),
        "spread": [min(ratios), max(ratios)],
    }


def main(run: str, calls: int, as_json: bool) -> None:
    """Alternate between ours and SB3's."""
    torch.set_num_threads(1)
    opened = Run.open(run)
    agent = opened.agent()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        export.write(path, export.export(opened, allow_forgetting=True))
        policy = deploy.load(path)
    skill = policy.skills[0]
    parts = policy.contract["skills"][0]["observation"]
    random = np.random.default_rng(0)
    rows = random.uniform(-0.5, 0.5, (256, parts[-1]["index"][1])).astype(np.float32)
    mappings = [{p["name"]: row[slice(*p["index"])] for p in parts} for row in rows]
    ways: dict[str, Callable[[int], Any]] = {
        "array": lambda i: policy(rows[i % 256], skill),
        "named parts": lambda i: policy(mappings[i % 256], skill),
    }
    measured: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        with agent.policy.using(0):
            for way, call in ways.items():
                theirs = percentiles(
                    lambda i: agent.predict(rows[i % 256], deterministic=True), calls // _ROUNDS
                )
                ours = percentiles(call, calls // _ROUNDS)
                for at, quantile in enumerate(("p50", "p99")):
                    measured.setdefault(f"{way}, {quantile}", []).append(ours[at])
                    measured.setdefault(f"{way}, {quantile} SB3", []).append(theirs[at])
    names = [name for name in measured if not name.endswith("SB3")]
    report([latency_row(n, measured[n], measured[f"{n} SB3"]) for n in names], as_json)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a finished run's directory")
    parser.add_argument("--calls", type=int, default=10_000, help="of each, in all rounds")


if __name__ == "__main__":
    options = arguments(__doc__ or "", _configure)
    main(options.run, options.calls, options.json)
