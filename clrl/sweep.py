"""A sweep: methods x curricula x seeds of one small file, each a run of its own."""

import json
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from clrl import checkpoint, pool
from clrl.agents.lanes import cores
from clrl.compare import compare
from clrl.config import Config, dumps
from clrl.envs.untrusted import shown
from clrl.eval.comparison import Comparison
from clrl.eval.report import duration
from clrl.eval.retention import Retention
from clrl.preparation import folder_name, prepare
from clrl.run import Run

_KEYS = {"out": str, "curricula": list, "methods": dict, "seeds": list, "steps": int, "more": list}
_MORE_KEYS = {"curricula": list, "methods": list, "seeds": list}
_KINDS = {
    str: "text",
    list: "a list",
    dict: "a table",
    int: "a whole number",
    bool: "true or false",
}
_DECIDED = {"curriculum", "agent", "protect", "seed", "steps_per_skill", "out"}
_METHOD_KEYS = {"agent": str, "protect": (list, dict), "options": dict, "joint": bool}


@dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    Attributes:
        method: Name of its method.
        run: The run, on the disk or not yet.
    """

    method: str
    run: Run

    @property
    def name(self) -> str:
        """Name of its directory."""
        return self.run.path.name

    @property
    def log(self) -> Path:
        """File for what its process prints."""
        return self.run.path.parent / "logs" / f"{self.name}.log"

    def finished(self) -> Retention | None:
        """Its result; None if it has none yet, or a damaged one."""
        try:
            return self.run.retention()
        except (FileNotFoundError, ValueError):
            return None

    def share(self) -> float:
        """How much of its training is done, in [0, 1], as far as checkpoints tell."""
        done = checkpoint.steps(self.run.checkpoints)
        return min(1.0, int(done[-1].name) / sum(self.run.curriculum.steps)) if done else 0.0


@dataclass(frozen=True)
class Sweep:
    """Runs to be trained, in the order of training, which is by seed first.

    Attributes:
        entries: The runs.
        out: Folder of their directories.
    """

    entries: tuple[Entry, ...]
    out: Path

    @staticmethod
    def read(file: str | Path, threads: int = 1) -> "Sweep":
        """Read a sweep's file and make sure that every run of it can be trained.

        Args:
            file: TOML with `curricula`, `seeds`, tables `methods.NAME` and, for methods that get
                more of either, `[[more]]`; see `docs/compare.md`.
            threads: CPU threads of each run.

        Raises:
            ValueError: it is not such a file, something in it does not fit, or a directory of it
                holds something else; in one line. Nothing is written.
        """
        path = Path(file)
        spec = _spec(path)
        out = Path(spec.get("out", Path("runs") / path.stem))
        entries = []
        for seed, curriculum, name in _asked(spec):
            method = spec["methods"][name]
            try:
                run = _prepared(spec, curriculum, name, method, seed, out, threads)
            except (TypeError, ValueError) as error:
                raise ValueError(f"sweep file {path}: method {name!r}: {error}") from None
            _refuse_other(run)
            entries.append(Entry(name, run))
        names = [entry.name for entry in entries]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"sweep file {path}: two runs would be called {twice}")
        return Sweep(tuple(entries), out)

    def left(self) -> list[Entry]:
        """Runs that are not finished."""
        return [entry for entry in self.entries if entry.finished() is None]

    def expected(self) -> dict[str, float | None]:
        """Seconds that each run will still take, by its name, 0 for a finished one.

        Told from finished runs of the same method and curriculum, all of which are as long; None
        where there is none.
        """
        results = {entry.name: entry.finished() for entry in self.entries}
        taken: dict[tuple[str, str], list[float]] = {}
        for entry in self.entries:
            if result := results[entry.name]:
                key = (entry.method, entry.run.curriculum.name)
                taken.setdefault(key, []).append(result.cost["wall_seconds"])
        expected: dict[str, float | None] = {}
        for entry in self.entries:
            known = taken.get((entry.method, entry.run.curriculum.name))
            rest = fmean(known) * (1.0 - entry.share()) if known else None
            expected[entry.name] = 0.0 if results[entry.name] else rest
        return expected

    def comparison(self) -> Comparison | None:
        """The finished runs side by side; None if there are none."""
        done = {e.run.path: e.method for e in self.entries if e.finished() is not None}
        return compare(done, done) if done else None

    def train(
        self, engine: str = "local", at_once: int | None = None, tell: Callable[[str], None] = print
    ) -> dict[str, str]:
        """Train every run that is not finished; what is finished stays as it is.

        Args:
            engine: "local", processes of this machine, or "ray", tasks of a Ray cluster.
            at_once: Runs at a time; one for each core by default, or all that the cluster takes.
            tell: Takes a line about each run that ends.

        Returns:
            Runs that failed, with the reason; the others are finished.
        """
        left = {entry.run.path.absolute(): entry for entry in self.left()}
        if not left:
            return {}
        jobs = _written(left.values())
        on_ray = engine == "ray"
        ended = (
            pool.on_ray(jobs, at_once) if on_ray else pool.on_this_machine(jobs, at_once or cores())
        )
        failed, start = {}, time.monotonic()
        for number, (job, problem) in enumerate(ended, 1):
            entry = left[job.path]
            if problem:
                failed[entry.name] = problem
            rest = (time.monotonic() - start) / number * (len(left) - number)
            more = f", about {duration(rest)} left" if rest else ""
            tell(f"[{number}/{len(left)}] {entry.name}  {problem or _success(entry)}{more}")
        return failed

    def plan(self, at_once: int) -> str:
        """Each run with its state and the time it will still take, and all of them together."""
        expected = self.expected()
        width = max(len(entry.name) for entry in self.entries)
        lines = [
            f"{e.name:{width}}  {_state(e):>12}  {_time(expected[e.name])}" for e in self.entries
        ]
        left = [expected[entry.name] for entry in self.left()]
        unknown = left.count(None)
        parts = [f"{len(self.entries)} runs, {len(left)} to train, {at_once} at a time"]
        if unknown < len(left):
            known = sum(filter(None, left)) / at_once
            parts.append(f"about {duration(known)} for {len(left) - unknown} of them")
        if unknown:
            parts.append(f"{unknown} of unknown length, as no run of their method is finished yet")
        return "\n".join([*lines, "", "; ".join(parts)])

    def to_json(self) -> list[dict[str, Any]]:
        """What `plan` shows, one object for each run."""
        expected = self.expected()
        return [
            {
                "run": str(entry.run.path),
                "method": entry.method,
                "curriculum": entry.run.curriculum.name,
                "seed": entry.run.config.seed,
                "finished": expected[entry.name] == 0.0,
                "share": entry.share(),
                "expected_seconds": expected[entry.name],
            }
            for entry in self.entries
        ]


def _spec(path: Path) -> dict[str, Any]:
    """The content of a sweep's file, with every key of the right type."""
    try:
        spec = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"sweep file {path} does not exist") from None
    except OSError as error:
        raise ValueError(f"sweep file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML and UTF-8 alike
        raise ValueError(f"sweep file {path} is not valid TOML: {error}") from None
    _check_keys(f"sweep file {path}", spec, _KEYS, ("curricula", "methods", "seeds"))
    for name, method in spec["methods"].items():
        where = f"sweep file {path}: method {name!r}"
        if not re.fullmatch(r"[\w+-][\w.+-]*", name):
            raise ValueError(f"{where} must be named by letters, digits, '_', '.', '+' and '-'")
        if not isinstance(method, dict):
            raise ValueError(f"{where} must be a table, such as [methods.{name}]")
        _check_keys(where, method, _METHOD_KEYS)
        if taken := _DECIDED & method.get("options", {}).keys():
            raise ValueError(f"{where}: options must not hold {min(taken)!r}, a sweep's own")
    for more in spec.get("more", ()):
        where = f"sweep file {path}: more"
        if not isinstance(more, dict):
            raise ValueError(f"{where} must be tables, [[more]]")
        _check_keys(where, more, _MORE_KEYS)
        for name in more.get("methods", ()):
            if not isinstance(name, str) or name not in spec["methods"]:
                known = ", ".join(spec["methods"])
                raise ValueError(f"{where} names no method {shown(name)}; there are {known}")
    return spec


def _asked(spec: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """Seed, curriculum and method of each run, in order."""
    for block in (spec, *({**spec, **more} for more in spec.get("more", ()))):
        yield from product(block["seeds"], block["curricula"], block["methods"])


def _check_keys(
    where: str, table: Mapping[str, Any], keys: Mapping[str, Any], needed: Sequence[str] = ()
) -> None:
    if unknown := sorted(table.keys() - keys.keys()):
        close = get_close_matches(unknown[0], keys, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(keys)}"
        raise ValueError(f"{where} has unknown keys: {', '.join(unknown)}; {hint}")
    for name, value in table.items():
        if not isinstance(value, keys[name]) or (isinstance(value, bool) and keys[name] is int):
            kinds = keys[name] if isinstance(keys[name], tuple) else (keys[name],)
            wish = " or ".join(_KINDS[kind] for kind in kinds)
            raise ValueError(f"{where}: {name} must be {wish}, got {shown(value)}")
    for name in needed:
        if not table.get(name):
            raise ValueError(f"{where} needs {name}")


def _prepared(
    spec: Mapping[str, Any],
    curriculum: str,
    name: str,
    method: Mapping[str, Any],
    seed: int,
    out: Path,
    threads: int,
) -> Run:
    joint = {"joint": True} if method.get("joint") else {}
    run = prepare(
        curriculum,
        method.get("agent", "ppo"),
        method.get("protect"),
        seed=seed,
        steps_per_skill=spec.get("steps"),
        **{"threads": threads, **joint, **method.get("options", {})},
    )
    run.path = out / folder_name(f"{run.curriculum.name}-{name}-seed{seed}")
    return run


def _refuse_other(run: Run) -> None:
    """Raise ValueError where the directory holds something else than this run."""
    if not run.path.exists():
        return
    there, asked = (_what(c) for c in (Run.open(run.path).config, run.config))
    if there != asked:
        other = ", ".join(_differences(there, asked)[:3])
        raise ValueError(f"{run.path} was made with {other}; move it or choose another out")


def _differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What differs, with its values on the disk and in the file."""
    found = []
    for key in sorted(there.keys() | asked.keys()):
        one, other = there.get(key), asked.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += [f"{key}.{part}" for part in _differences(one, other)]
        elif one != other:
            found.append(f"{key} {shown(one)}, not {shown(other)}")
    return found


def _what(config: Config) -> dict[str, Any]:
    """What decides the result of a run, but for where it is trained."""
    content = json.loads(dumps(replace(config, threads=0, device="cpu").to_json()))
    return {key: value for key, value in content.items() if key != "versions"}


def _written(entries: Iterable[Entry]) -> Iterator[pool.Job]:
    """The runs on the disk, as jobs."""
    for entry in entries:
        run = entry.run
        if not run.path.exists():
            Run.create(run.path, run.config, run.curriculum)
        (run.path / "retention.json").unlink(missing_ok=True)  # a damaged one; it is made anew
        entry.log.parent.mkdir(exist_ok=True)
        yield pool.Job(run.path.absolute(), entry.log.absolute(), run.config.threads or 1)


def _success(entry: Entry) -> str:
    result = entry.run.retention()
    performance, lost = (result.metrics[k] or 0.0 for k in ("average_performance", "forgetting"))
    took = duration(result.cost["wall_seconds"])
    return f"AP {performance:.3f}, forgetting {lost:.3f}, {took}"


def _state(entry: Entry) -> str:
    if entry.finished() is not None:
        return "finished"
    share = entry.share()
    return f"{share:.0%} trained" if share else "to train"


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration(seconds) if seconds else ""
