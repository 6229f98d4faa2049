"""Reads runs for a comparison: which are of one method, their curves and their baselines."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from clrl import checkpoint
from clrl.config import Config, budgets, preset_of
from clrl.eval.comparison import Comparison, Method
from clrl.eval.figure import Curves
from clrl.eval.metrics import forward_transfer_per_skill
from clrl.eval.retention import Retention
from clrl.run import Run

_ELSEWHERE = {"curriculum", "protect", "agent", "options", "seed", "threads", "device", "versions"}
_ELSEWHERE |= {"checkpoint_seconds", "keep_checkpoints"}  # no part of a method


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run, as far as a comparison looks at it.

    Attributes:
        path: Its directory.
        config: What it was asked for.
        result: What it retained.
        curves: Its learning curves, see `figure.plot`.
        ends: Environment steps at the end of each skill; none where they were learned at once.
    """

    path: Path
    config: Config
    result: Retention
    curves: Curves
    ends: tuple[int, ...]


def compare(runs: Iterable[str | Path], names: Mapping[Path, str] | None = None) -> Comparison:
    """Compare finished runs; those that differ by their seeds alone are one method.

    Args:
        runs: Their directories.
        names: What the method of a run is called; by default what it was asked for says it.

    Raises:
        ValueError: there are none, one is not a finished run, or two of one method share a seed.
    """
    found = [read(Path(path)) for path in dict.fromkeys(map(Path, runs))]
    if not found:
        raise ValueError("no finished run to compare")
    groups: dict[tuple[str, str], list[Finished]] = {}
    for run in found:
        name = names[run.path] if names else label(run.config) + _budget(run, found)
        groups.setdefault((run.config.curriculum["name"], name), []).append(run)
    return Comparison(tuple(_method(name, group, found) for (_, name), group in groups.items()))


def write_report(target: Path, comparison: Comparison) -> None:
    """Write `report.html`, with pictures of the best and of the worst method of each curriculum.

    Args:
        target: The file; readers see either an older one or the whole new one.
        comparison: What to show, of runs on the disk.

    Raises:
        OSError: it cannot be written.
    """
    from clrl.eval.page import page
    from clrl.frames import film

    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:  # refuses before the work is done
        try:
            films = {
                curriculum: [
                    film(Path(m.paths[0]), f"{m.name}, seed {m.results[0].seed}")
                    for m in dict.fromkeys((methods[0], methods[-1]))
                ]
                for curriculum, methods in comparison.curricula.items()
            }
            file.write(page(comparison, films))
            file.flush()
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def report(run: Run, result: Retention, curves: Curves, ends: Sequence[int]) -> str:
    """`report.html` of a run alone, without the pictures, which only `write_report` takes."""
    from clrl.eval.page import page

    one = Finished(path=run.path, config=run.config, result=result, curves=curves, ends=tuple(ends))
    return page(Comparison((_method(label(run.config), [one], [one]),)))


def read(path: Path) -> Finished:
    """Read a finished run.

    Raises:
        ValueError: there is no run, or it is not finished.
    """
    run = Run.open(path)
    result = run.retention()
    newest = checkpoint.newest_valid(run.checkpoints)
    position = checkpoint.read(newest)[0]["position"] if newest else {"curves": {}, "ends": []}
    curves = {name: [(int(x), float(y)) for x, y in c] for name, c in position["curves"].items()}
    ends = tuple(position["ends"])
    if any(
        curves.get(n) and curves[n][0][0] <= e
        for n, e in zip(result.skills[1:], ends, strict=False)
    ):
        ends = ()  # learned at once, so that no part of the training is one skill's
    return Finished(path=path, config=run.config, result=result, curves=curves, ends=ends)


def label(config: Config) -> str:
    """A method by what was asked for: agent, protections, and whatever is not the preset."""
    protect = [f"{name}{_options(chosen)}" for name, chosen in config.protect.items()]
    fields = {k: v for k, v in asdict(config).items() if k not in _ELSEWHERE}
    # Seeds of a method start from different files and bases.
    fields["imported"] = config.imported and True
    fields["adapted"] = config.adapted and (config.adapted.get("like") or True)
    usual = {k: v for k, v in asdict(Config(curriculum={})).items() if k in fields}
    preset = preset_of(config.agent, budgets(config.curriculum) if config.joint else None)
    usual["worlds"] = preset["worlds"]
    own = _differing(fields, usual) | _differing(config.options, preset["options"])
    return f"{config.agent}: {' + '.join(protect) or 'none'}{_options(own)}"


def _budget(run: Finished, everything: Sequence[Finished]) -> str:
    """The steps of a run, where others of its curriculum had more or fewer."""
    curriculum = run.config.curriculum
    others = (other.config.curriculum for other in everything)
    same = (budgets(other) for other in others if other["name"] == curriculum["name"])
    mine = budgets(curriculum)
    return f", {sum(mine):,} steps" if any(other != mine for other in same) else ""


def _setting(config: Config) -> str:
    """What was asked for, protections apart."""
    return label(replace(config, protect={}, importance="equal"))


def _differing(chosen: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are not the usual ones, with those inside of options in their place."""
    found: dict[str, Any] = {}
    for name, value in chosen.items():
        if isinstance(value, Mapping) and isinstance(usual.get(name), Mapping):
            found |= _differing(value, usual[name])
        elif name not in usual or usual[name] != value:
            found[name] = value
    return found


def _options(chosen: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{k}={v}' for k, v in chosen.items())})" if chosen else ""


def _method(name: str, group: Sequence[Finished], everything: Sequence[Finished]) -> Method:
    group = sorted(group, key=lambda run: run.config.seed)
    for run, other in pairwise(group):
        both = f"{run.path} and {other.path} are both {name}"
        if run.config.seed == other.config.seed:
            raise ValueError(f"{both}, seed {run.config.seed}; leave one out")
        if run.config.curriculum != other.config.curriculum:
            raise ValueError(f"{both}, but with other options of skills")
        if run.result.protocol != other.result.protocol:
            raise ValueError(f"{both}, but were not measured under one protocol")
    first = group[0]
    gains = [_transfer(run, everything) for run in group]
    known = [gain for gain in gains if gain is not None]
    return Method(
        name=name,
        curriculum=first.config.curriculum["name"],
        paths=tuple(str(run.path) for run in group),
        results=tuple(run.result for run in group),
        curves=tuple(run.curves for run in group),
        ends=tuple(run.ends for run in group),
        transfer=tuple(known) if len(known) == len(group) else None,
        setting=_setting(first.config),
        unprotected=not first.config.methods,
    )


def _transfer(run: Finished, everything: Sequence[Finished]) -> list[float] | None:
    """Gain in area on each skill over unprotected runs that learn it alone; None if one lacks."""
    alone = []
    for table in run.config.curriculum["skills"]:
        areas = [
            _areas(other)[0]
            for other in everything
            if other.config.curriculum["skills"] == [table]
            and label(other.config) == _setting(run.config)
            and other.ends
        ]
        alone.append(float(np.mean(areas)) if areas else None)
    if len(alone) < 2 or len(run.ends) != len(alone) or None in alone or 1.0 in alone:
        return None
    return list(forward_transfer_per_skill(_areas(run), np.array(alone, np.float64)))


def _areas(run: Finished) -> list[float]:
    """Mean success over each skill's own training: the area under its curve over its budget."""
    areas = []
    starts = (0, *run.ends)
    for i, (name, end) in enumerate(zip(run.result.skills, run.ends, strict=True)):
        points: list[tuple[float, float]] = [(starts[i], run.result.success[i][i])]
        points += [(x, y) for x, y in run.curves.get(name, ()) if starts[i] < x <= end]
        steps, success = np.array(points, np.float64).T
        area = np.sum(np.diff(steps) * (success[1:] + success[:-1]) / 2)
        areas.append(float(area / (steps[-1] - steps[0])))
    return areas
