"""Kills trainings and exports again and again, and counts what is lost.

Tiny runs of both agents are trained in forked children of one process that has imported everything.
A child is killed with SIGKILL at a random moment, within an evaluation, or before or after each
call that reaches the disk while a checkpoint is written (and an older one removed), while figure
and result are written, and while a bundle is exported. The next child resumes. After every kill all
checkpoints must be whole and none that was finished may be gone; at the end the last checkpoint
must be that of a run that nobody disturbed, in every number but seconds.
"""

import argparse
import itertools
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dying import CALLS, SAVED, Board, at_disk_call, die, fork, new_board

import clrl
from clrl import checkpoint, trainer
from clrl.envs.episodes import Episodes
from clrl.eval.evaluator import Evaluator
from clrl.export import export, write
from clrl.run import Run
from clrl.verify import verify

TINY: dict[str, Any] = {
    "protect": ["ewc", "distill", "replay"],
    "curriculum": ["arm-reach", "arm-press"],
    "horizon": 16,
    "worlds": 4,
    "threads": 2,
    "episodes": 4,
    "checkpoint_seconds": 0.0,
    "quiet": True,
}
AGENTS: dict[str, dict[str, Any]] = {
    "ppo": {"steps_per_skill": 384, "n_steps": 16, "batch_size": 32, "n_epochs": 1},
    "sac": {
        "steps_per_skill": 96,
        "learning_starts": 40,
        "train_freq": 4,
        "gradient_steps": 1,
        "batch_size": 16,
        "buffer_size": 1000,
    },
}
_EXPORT_CALLS = 20  # mkdir, 8 x (open, fsync), fsync folder, rename, fsync parent
_END_OF_PNG = b"IEND\xaeB`\x82"
_SECONDS = ("protection_seconds", "cost", "t")  # of a checkpoint; everything else is compared


@dataclass(frozen=True)
class Moment:
    """When a child is killed.

    Attributes:
        kind: "random", "evaluation", "checkpoint", "figure and result" or "export".
        at: Seconds after the start, steps of an episode, or calls that reach the disk.
        after: Whether just after that call, or just before.
        nth: Which checkpoint is meant.
    """

    kind: str
    at: float
    after: bool = False
    nth: int = 1


@dataclass
class Outcome:
    """What a storm did.

    Attributes:
        kills: By the kind of their moment.
        runs: Runs or bundles that were finished in spite of them.
        equal: Those that ended as one that nobody disturbed.
        lost: Runs that could not be finished.
        corrupted: Checkpoints, results or bundles that were found damaged.
        backwards: Kills after which a finished checkpoint was gone.
    """

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    equal: int = 0
    lost: int = 0
    corrupted: int = 0
    backwards: int = 0


def _arm(moment: Moment | None, board: Board) -> None:
    """Prepare this child to be killed; what it has saved goes on the board."""
    save, conclude = Run.save_checkpoint, trainer._Trainer._conclude
    saves = itertools.count(1)

    def saving(self: Run, step: int, *args: Any) -> None:
        if moment and moment.kind == "checkpoint" and next(saves) == moment.nth:
            at_disk_call(die, moment.at, moment.after, board)
        save(self, step, *args)
        board[SAVED] = step
        if moment and moment.at == math.inf and board[CALLS]:
            os._exit(0)  # its calls are counted

    def concluding(self: Any) -> None:
        if moment and moment.kind == "figure and result":
            at_disk_call(die, moment.at, moment.after, board)
        conclude(self)

    Run.save_checkpoint = saving  # type: ignore[assignment, method-assign]
    trainer._Trainer._conclude = concluding  # type: ignore[method-assign]
    if moment and moment.kind == "evaluation":
        _die_in_evaluation(int(moment.at))


def _die_in_evaluation(at: int) -> None:
    score, step = Evaluator.score, Episodes.step
    steps = itertools.count()
    scoring = [False]

    def scored(*args: Any, **kwargs: Any) -> Any:
        scoring[0] = True
        try:
            return score(*args, **kwargs)
        finally:
            scoring[0] = False

    def stepped(*args: Any) -> Any:
        if scoring[0] and next(steps) == at:
            die()
        return step(*args)

    Evaluator.score = scored  # type: ignore[method-assign]
    Episodes.step = stepped  # type: ignore[assignment, method-assign]


def go_on(path: Path, agent: str, moment: Moment | None, board: Board) -> bool:
    """Train or resume in a child; whether it was killed."""

    def act() -> None:
        _arm(moment, board)
        if path.exists():
            clrl.resume(path, quiet=True)
        else:
            clrl.train(agent=agent, out=path, **TINY, **AGENTS[agent])

    delay = moment.at if moment and moment.kind == "random" else None
    return fork(act, delay) is not None


def storm(folder: Path, agent: str, moments: Sequence[Moment], whole: Run) -> Outcome:
    """Kill at every moment, resuming in between; a run that is finished makes way for a new one.

    A moment that a run's end came before is tried once more in the next run.
    """
    outcome, board = Outcome(), new_board()
    tries = [moment for moment in moments for _ in range(2)] + [None]
    dead: Moment | None = None
    for moment in tries:
        if moment is dead and moment is not None:
            continue  # the first try has killed already
        path = folder / f"{agent}-{outcome.runs + outcome.lost}"
        board[SAVED] = board[SAVED] if path.exists() else -1
        try:
            killed = go_on(path, agent, moment, board)
            _inspect(path, board[SAVED], outcome)
            if moment and killed:
                outcome.kills[moment.kind] += 1
                dead = moment
            else:
                _compare(path, whole, outcome)
        except (OSError, RuntimeError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            outcome.lost += 1
    return outcome


def _compare(path: Path, whole: Run, outcome: Outcome) -> None:
    """Compare a finished run with an undisturbed one, and remove it."""
    result = Run.open(path)
    outcome.equal += same(final(result), final(whole)) and (
        result.retention().success == whole.retention().success
    )
    outcome.runs += 1
    shutil.rmtree(path)
    print(f"{path.name}: {outcome}", file=sys.stderr)


def _inspect(path: Path, saved: int, outcome: Outcome) -> None:
    """Look for damage after a kill."""
    folder = path / "checkpoints"
    for found in checkpoint.steps(folder):
        try:
            checkpoint.verify(found)
        except checkpoint.CheckpointError as error:
            print(error, file=sys.stderr)
            outcome.corrupted += 1
    newest = checkpoint.newest_valid(folder)
    outcome.backwards += saved > (int(newest.name) if newest else -1)
    figure = path / "retention.png"
    outcome.corrupted += figure.exists() and not figure.read_bytes().endswith(_END_OF_PNG)
    if (path / "retention.json").exists():
        Run.open(path).retention()


def storm_exports(folder: Path, moments: Sequence[Moment], run: Run) -> Outcome:
    """Kill exports; a bundle must be whole or absent, and exporting again must work."""

    def act(path: Path, moment: Moment | None) -> None:
        files = export(run, allow_forgetting=True)
        if moment and moment.at >= 0:
            at_disk_call(die, moment.at, moment.after)
        write(path, files)

    outcome = Outcome()
    for i, moment in enumerate(moments):
        path = folder / f"bundle-{i}"
        delay = -moment.at if moment.at < 0 else None
        outcome.kills["export"] += fork(partial(act, path, moment), delay) is not None
        if not path.exists():
            fork(partial(act, path, None))
        try:
            verify(path)
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            outcome.corrupted += 1
        else:
            outcome.equal += 1
        outcome.runs += 1
    return outcome


def final(run: Run) -> dict[str, Any]:
    """The state in a run's last checkpoint."""
    return checkpoint.read(run.finals()[-1])[0]


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the bit, but for seconds."""
    if isinstance(a, dict):
        keys = a.keys() - set(_SECONDS)
        return keys == b.keys() - set(_SECONDS) and all(same(a[k], b[k]) for k in keys)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor | np.ndarray):
        return type(a) is type(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return bool(a == b) and type(a) is type(b)


def undisturbed(folder: Path, agent: str) -> Run:
    """A run that nobody kills, in this process, which has then imported all that children need."""
    return clrl.train(agent=agent, out=folder / agent, **TINY, **AGENTS[agent])


def count_calls(folder: Path, agent: str, kind: str, nth: int) -> int:
    """How many calls reach the disk in a phase, so that every one can be a moment."""
    board = new_board()
    go_on(folder / f"count-{agent}-{kind}", agent, Moment(kind, math.inf, nth=nth), board)
    return int(board[CALLS])


def plan(folder: Path, agent: str, seconds: float, randoms: int, seed: int) -> list[Moment]:
    """Every step of every phase, and random moments of a run that takes so many seconds."""
    random_ = random.Random(seed)
    moments = []
    # The fourth save within the life of a process drops an older checkpoint, too.
    for kind, nth in (("checkpoint", 4), ("figure and result", 1)):
        for at in range(count_calls(folder, agent, kind, nth)):
            moments += [Moment(kind, at, after, nth) for after in (False, True)]
    for _ in range(randoms):
        moments.append(Moment("random", random_.uniform(0.0, 0.9 * seconds)))
        moments.append(Moment("evaluation", random_.randrange(200)))
    random_.shuffle(moments)
    return moments


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All storms; one row for each agent, and one for exports."""
    rows = []
    for agent in AGENTS:
        whole = undisturbed(folder, agent)
        start = time.perf_counter()
        go_on(folder / f"timed-{agent}", agent, None, new_board())
        seconds = time.perf_counter() - start
        moments = plan(folder, agent, seconds, options.randoms, options.seed)
        rows.append(_row(agent, storm(folder, agent, moments, whole)))
    steps = [Moment("export", at, after) for at in range(_EXPORT_CALLS) for after in (False, True)]
    random_ = random.Random(options.seed)
    delays = [Moment("export", -random_.uniform(0.01, 1.0)) for _ in range(options.randoms)]
    exports = storm_exports(folder, [*steps, *delays], Run.open(folder / "ppo"))
    return [*rows, _row("export", exports)]


def _row(name: str, outcome: Outcome) -> dict[str, Any]:
    return {"name": name, **asdict(outcome), "kills": sum(outcome.kills.values())} | {
        "moments": dict(outcome.kills)
    }


def main() -> None:
    """Storm, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument(
        "--randoms", type=int, default=30, help="kills at random moments of each kind"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trainer._PROBE_EPISODES = 2
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    columns = ("name", "kills", "runs", "equal", "lost", "corrupted", "backwards")
    print("".join(f"{c:>11}" for c in columns))
    for row in rows:
        print("".join(f"{row[c]:>11}" for c in columns), row["moments"])
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
