"""What a person sees of long work, and what the loggers write."""

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, Logger, make_output_format

from clrl.envs.untrusted import read_bytes
from clrl.sealed import TEMPORARY

STEP = "time/total_timesteps"
_LOG_LIMIT = 2**28


class Progress:
    """Skill, rate, time left and success so far: a bar in a terminal, lines elsewhere."""

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console()
        self._total = total
        self._skill, self._success = "", ""
        self._start, self._first = time.monotonic(), done
        columns = (
            TextColumn("{task.description:>8}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %  {task.fields[rate]:,.0f} steps/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[success]}"),
        )
        terminal = self._console.is_terminal and not quiet
        self._bar = Bar(*columns, console=self._console, disable=not terminal)
        self._lines = not terminal and not quiet
        self._task = self._bar.add_task("", total=total, completed=done, rate=0.0, success="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def watch(self, skill: str, pause: Callable[[], None]) -> BaseCallback:
        """A callback that moves the bar while `skill` is trained, and pauses between rollouts."""
        self._skill = skill
        return _Watch(self, pause)

    def advance(self, steps: int) -> None:
        """Show that `steps` environment steps are done in all."""
        self._bar.update(
            self._task,
            completed=steps,
            description=self._skill,
            rate=self._rate(steps),
            success=self._success,
        )

    def probed(self, steps: int, success: dict[str, float]) -> None:
        """Show the success on every skill so far."""
        self._success = "  ".join(f"{name} {rate:.0%}" for name, rate in success.items())
        self.advance(steps)
        if self._lines:
            rate = self._rate(steps)
            left = max(0.0, self._total - steps) / max(rate, 1e-9)
            print(
                f"{self._skill:>8}  {min(1.0, steps / self._total):4.0%}  {rate:,.0f} steps/s  "
                f"{left // 60:.0f}:{left % 60:02.0f} left  {self._success}",
                flush=True,
            )

    def _rate(self, steps: int) -> float:
        return (steps - self._first) / max(time.monotonic() - self._start, 1e-9)


class _Watch(BaseCallback):
    def __init__(self, progress: Progress, pause: Callable[[], None]) -> None:
        super().__init__()
        self._progress = progress
        self._pause = pause

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._pause()  # the last rollout is trained on, and nothing of the next is drawn

    def _on_rollout_end(self) -> None:
        self._progress.advance(self.num_timesteps)


def make_logger(path: Path, step: int) -> Logger:
    """SB3's logger to `progress.csv` and `tb/`, going on after environment step `step`."""
    file = path / "progress.csv"
    kept = _rows_until(file, step)
    fresh = path / f"{TEMPORARY}{file.name}"
    written = CSVOutputFormat(str(fresh))
    for row in kept:
        written.write(row, {})
    fresh.replace(file)  # only now, or being killed would lose the log; it stays open
    return Logger(str(path), [written, make_output_format("tensorboard", str(path / "tb"))])


def _rows_until(file: Path, step: int) -> list[dict[str, Any]]:
    """Rows of a log up to a step; what came later was not saved and is done again.

    Raises:
        ValueError: it is no log.
    """
    try:
        text = read_bytes(file, _LOG_LIMIT).decode(errors="replace").replace("\0", "")
        read = csv.DictReader(text.splitlines())  # with whatever a crash may have left
        rows = [{k: _number(v) for k, v in row.items() if k and v} for row in read]
    except FileNotFoundError:
        return []
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{file}: {error}; it is only a log: move it away") from None
    return [row for row in rows if _step(row) <= step]


def _number(text: str) -> float | str:
    """What a cell says, which is written again as it was; text would be quoted."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _step(row: dict[str, Any]) -> float:
    """The step of a row; infinity for one that was cut off."""
    try:
        return float(row[STEP])
    except (KeyError, ValueError):
        return math.inf
