"""Memory and open files of one process that trains run after run, checkpointing all the time.

PPO and SAC learn a short `arm3` with all protections in turn, with checkpoints every two seconds,
resuming included: the process interrupts itself within each run and goes on with it. What grows
from one run to the next is a leak. `--plot` draws both over time.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import clrl
from clrl.eval import atomic
from clrl.interrupt import Interrupted

RUN: dict[str, Any] = {
    "curriculum": "arm3",
    "protect": ["ewc", "distill", "replay"],
    "checkpoint_seconds": 2.0,
    "quiet": True,
}
AGENTS: dict[str, dict[str, Any]] = {
    "ppo": {"steps_per_skill": 40_000},
    "sac": {"steps_per_skill": 12_000, "learning_starts": 2_000, "buffer_size": 20_000},
}


@dataclass
class Samples:
    """Rows of seconds, resident MiB, open files and threads; and when each run ended."""

    rows: list[list[float]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def take(self) -> None:
        """Take a sample of this process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.rows.append(
            [
                time.monotonic() - self.start,
                pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                len(os.listdir("/proc/self/fd")),
                threading.active_count(),
            ]
        )


def watch(samples: Samples, seconds: float, done: threading.Event) -> None:
    """Sample until it is over."""
    while not done.wait(seconds):
        samples.take()


def train(folder: Path, agent: str, threads: int, left: float) -> None:
    """Train one run, interrupted once and resumed; Interrupted when the time is up."""
    out = folder / agent
    timer = threading.Timer(min(20.0, left), os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        clrl.train(agent=agent, out=out, threads=threads, **RUN, **AGENTS[agent])
    except Interrupted:
        if left <= 20.0:
            raise
        last = threading.Timer(left - 20.0, os.kill, (os.getpid(), signal.SIGTERM))
        last.start()
        try:
            clrl.resume(out, quiet=True)
        finally:
            last.cancel()
    finally:
        timer.cancel()
        shutil.rmtree(out, ignore_errors=True)


def measure(options: argparse.Namespace) -> Samples:
    """Train until the time is up."""
    samples, done = Samples(), threading.Event()
    watcher = threading.Thread(target=watch, args=(samples, options.every, done))
    watcher.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for agent in itertools.cycle(AGENTS):
                left = options.minutes * 60 - (time.monotonic() - samples.start)
                if left <= 0:
                    break
                train(Path(folder), agent, options.threads, left)
                samples.ends.append(time.monotonic() - samples.start)
    except Interrupted:
        pass
    finally:
        done.set()
        watcher.join()
    return samples


def summarise(samples: Samples) -> dict[str, Any]:
    """Peaks of the second and the last quarter, and growth by least squares from the second on."""
    rows = np.array(samples.rows)
    quarters = np.array_split(rows, 4)
    later = np.concatenate(quarters[1:])
    slopes = np.polyfit(later[:, 0] / 3600.0, later[:, 1:3], 1)[0]
    return {
        "minutes": rows[-1, 0] / 60.0,
        "runs": len(samples.ends),
        "peak_mib": [float(q[:, 1].max()) for q in quarters],
        "open_files": [int(q[:, 2].max()) for q in quarters],
        "threads": [int(q[:, 3].max()) for q in quarters],
        "mib_per_hour": float(slopes[0]),
        "open_files_per_hour": float(slopes[1]),
    }


def plot(samples: Samples, path: Path) -> None:
    """Draw memory and open files over minutes, with a line where each run ended."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = np.array(samples.rows)
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    both = figure.subplots(2, 1, sharex=True)
    for axes, column, name in zip(both, (1, 2), ("resident MiB", "open files"), strict=True):
        axes.plot(rows[:, 0] / 60.0, rows[:, column], color="#20639b", linewidth=1.0)
        axes.set(ylabel=name, ylim=(0, 1.15 * rows[:, column].max()))
        for end in samples.ends:
            axes.axvline(end / 60.0, color="#dddddd", linewidth=0.6, zorder=0)
    both[1].set_xlabel("minutes; a line where a run ended")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    atomic.replace(path, image.getvalue())


def main() -> None:
    """Train, and print what grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between samples")
    parser.add_argument("--threads", type=int, default=1, help="of the physics")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: None)  # for one that comes between two runs
    samples = measure(options)
    print(json.dumps(summarise(samples)))
    if options.plot:
        plot(samples, options.plot)


if __name__ == "__main__":
    main()
