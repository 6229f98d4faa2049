"""`clrl adapt`: one more skill, or a variant, for a trained agent, and what the others kept."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from clrl import checkpoint
from clrl.config import resolve_device
from clrl.envs.catalog import make_skill
from clrl.envs.curriculum import Curriculum, Task
from clrl.eval.evaluator import Evaluator
from clrl.eval.report import percent
from clrl.measure import EVAL_SEED, performer
from clrl.preparation import check
from clrl.run import Run
from clrl.trainer import resume


def adapt(
    path: str | PathLike[str],
    skill: str,
    *,
    variant: Mapping[str, Any] | None = None,
    name: str | None = None,
    like: str | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> Run:
    """Teach a trained agent one more skill, protected as it was trained.

    The result is a run of its own, whose curriculum is the old one and the new skill: what can be
    done with a run can be done with it, adapting it once more included. The old run stays as it is,
    so that many variants can start from it.

    Args:
        path: A finished run.
        skill: An id, or the name of a skill of that run.
        variant: Options of the skill's class, such as `{"payload": 2.0}`.
        name: Of the new skill; by default its own and what varies, such as "push-payload-2".
        like: The skill of the run whose head and observation statistics it starts from; by default
            the one of the same class, if there is one.
        steps: Of training; the skill's own default if none.
        out: Directory of the new run; `PATH-NAME` by default.
        device: "auto", "cpu" or "cuda"; as the run was trained if none.
        threads: Of the physics; as the run was trained if none.
        quiet: Print nothing.

    Raises:
        ValueError: the run is not finished or protects nothing, or the skill does not fit it;
            nothing is written then.
        FileExistsError: `out` exists.
    """
    base = Run.open(path)
    finals = base.finished()
    if not base.config.protect:
        raise ValueError(
            f"{base.path} was trained without protections, so that nothing would keep its skills; "
            "train or import it with --protect"
        )
    extended, start = _extended(base, skill, dict(variant or {}), name, like, steps)
    new = extended.names[-1]
    earlier = base.config.adapted or {"like": {}}
    config = replace(
        base.config,
        curriculum=extended.to_json(),
        adapted={"base": str(base.path), "like": earlier["like"] | start},
        device=base.config.device if device is None else resolve_device(device, base.config.worlds),
        threads=base.config.threads if threads is None else threads,
    )
    target = Path(out) if out is not None else Path(f"{base.path}-{new}")
    check(Run(target, config, extended), base.build())
    Run.create(target, config, extended, lambda made: _inherit(base, finals, made))
    return resume(target, extended, quiet=quiet)


@dataclass(frozen=True)
class Adaptation:
    """What adding a skill did.

    Attributes:
        base: For each earlier skill its success before and after.
        skill: Name of the new one.
        like: The skill it started from, or None.
        before: Its success before, by the head of `like`, or by the newest.
        after: Its success now.
    """

    base: dict[str, tuple[float, float]]
    skill: str
    like: str | None
    before: float
    after: float

    @staticmethod
    def of(run: Run) -> "Adaptation":
        """Read off the result of a run that `adapt` made; ValueError where it is none."""
        if run.config.adapted is None:
            raise ValueError(f"{run.path} was not made by `clrl adapt`")
        result = run.retention()
        *names, new = result.skills
        pairs = list(zip(result.success[-2], result.success[-1], strict=True))
        before, after = pairs[-1]
        kept = dict(zip(names, pairs[:-1], strict=True))
        return Adaptation(kept, new, run.like(new), before, after)

    @property
    def loss(self) -> float:
        """What the earlier skills lost in average performance."""
        return sum(before - after for before, after in self.base.values()) / len(self.base)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self) | {"loss": self.loss}

    def __str__(self) -> str:
        width = max(map(len, (*self.base, self.skill)))
        rows = [(name, *pair) for name, pair in self.base.items()]
        rows.append((self.skill, self.before, self.after))
        lines = [f"{name:{width}}  {percent(a):>5} -> {percent(b):>5}" for name, a, b in rows]
        return "\n".join((*lines, f"earlier skills lost {self.loss:.3f} of average performance"))


def _extended(
    base: Run,
    skill: str,
    variant: dict[str, Any],
    name: str | None,
    like: str | None,
    steps: int | None,
) -> tuple[Curriculum, dict[str, str]]:
    """The curriculum with one more skill, and by its name the skill that it starts from, if any."""
    known = {task.name: task.spec for task in base.curriculum}
    spec = {**known.get(skill, {"id": skill}), **variant}
    key = spec.pop("id")
    spec.pop("name", None)
    try:
        made = make_skill(key, **spec)
    except ValueError as error:
        if skill in known:
            raise
        raise ValueError(f"{error} ({base.path} has {', '.join(known)})") from None
    name = name or _name(made, variant)
    if not re.fullmatch(r"[\w+-][\w.+-]*", name):
        raise ValueError(f"--name takes letters, digits, '_', '.', '+' and '-', got {name!r}")
    if name in known:
        raise ValueError(f"{base.path} has a skill {name!r} already; give the new one a --name")
    made = make_skill(key, **spec, name=name)
    if like is not None and like not in known:
        raise ValueError(f"{base.path} has no skill {like!r}; it has {', '.join(known)}")
    if like is None:
        same = (n for n, table in known.items() if table["id"] == key)
        like = skill if skill in known else next(same, None)
    curriculum = base.curriculum
    extended = Curriculum(
        f"{curriculum.name}+{name}",
        (*curriculum.skills, made),
        (*curriculum.steps, made.steps if steps is None else steps),
    )
    for kind in ("observation_space", "action_space"):
        before, after = getattr(curriculum, kind), getattr(extended, kind)
        if before != after or curriculum.is_padded != extended.is_padded:
            raise ValueError(
                f"skill {name!r} does not fit {base.path}: its {kind.replace('_', ' ')} is "
                f"{getattr(made, kind)}, the run's {before}"
            )
    return extended, {name: like} if like else {}


def _name(skill: Task, variant: Mapping[str, Any]) -> str:
    """The skill's own name and what varies: "dial-mirrored", "push-payload-2"."""
    words = [key if value is True else f"{key}-{_short(value)}" for key, value in variant.items()]
    return "-".join((skill.name, *words))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _inherit(base: Run, finals: list[Path], made: Run) -> None:
    """Put the base's history into a new run, with a column for the new skill in its matrix."""
    name = made.curriculum.names[-1]
    config = made.config
    evaluator = Evaluator(
        made.curriculum, episodes=config.episodes, threads=config.threads, device=config.device
    )
    column = []
    for final in finals:
        state, info = base.read(final), checkpoint.info(final)
        agent = base.build(state["agent"])
        column.append(evaluator.score(performer(made, agent, name), name, seed=EVAL_SEED))
        rows = (state["position"][key] for key in ("successes", "returns"))
        for score, wins, returns in zip(column, *rows, strict=True):
            wins.append(int(score.success.sum()))
            returns.append(float(score.returns.mean()))
        made.save_checkpoint(agent.num_timesteps, state, info)
    evaluator.close()
