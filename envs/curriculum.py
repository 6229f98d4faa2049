"""Curricula: skills in the order in which one agent learns them."""

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from clrl.envs.catalog import CURRICULA, SKILLS, check_rebuilt, make_skill, near_skill
from clrl.envs.padding import PaddedVecEnv
from clrl.envs.skill import box
from clrl.envs.untrusted import line, parse_json, read_bytes, shown

_MOST_STEPS = 10**12
_LONGEST = 200  # characters of a name
_LIMIT, _DOTS = 2**20, 200  # bytes of a file; dots in a line of TOML


class Task(Protocol):
    """What a curriculum asks of a skill, whether it runs in worlds or in Gymnasium."""

    name: str
    steps: int
    horizon: int
    success_rule: str
    observation_space: spaces.Box
    action_space: spaces.Box

    @property
    def spec(self) -> dict[str, Any]:
        """Its `id` and the options that rebuild it."""
        ...

    def vec_env(
        self,
        n: int,
        *,
        seed: int = 0,
        threads: int = 0,
        stagger: bool | int = False,
        device: str = "cpu",
    ) -> VecEnv:
        """N environments; with `get_state` and `set_state`, which continue bit for bit."""
        ...


@dataclass(frozen=True)
class Curriculum:
    """Skills in the order in which they are learned, with a budget of steps for each.

    Attributes:
        name: Shown in results.
        skills: At least one, with distinct names.
        steps: Environment steps of training, one number per skill.
    """

    name: str
    skills: tuple[Task, ...]
    steps: tuple[int, ...]

    def __init__(
        self, name: str, skills: Sequence[Task | str], steps: Sequence[int] | int | None = None
    ) -> None:
        """Collect the skills.

        Args:
            name: Shown in results.
            skills: Skills, or ids that `make_skill` resolves.
            steps: Steps for each skill, one number for all, or None for each skill's own default.

        Raises:
            ValueError: no skill, a repeated name, a budget below 1, or spaces without a common one.
        """
        built = _build(skills)
        if not built:
            raise ValueError(f"curriculum {name!r} has no skills")
        names = [skill.name for skill in built]
        if len(set(names)) < len(names):
            raise ValueError(
                f"curriculum {name!r} repeats a skill: {', '.join(names)}; give one another `name`"
            )
        if isinstance(steps, int):
            steps = [steps] * len(built)
        budget = tuple(steps or (skill.steps for skill in built))
        if len(budget) != len(built) or min(budget) < 1 or max(budget) > _MOST_STEPS:
            raise ValueError(
                f"curriculum {name!r} needs a budget >= 1 and <= 10^12 for each of its "
                f"{len(built)} skills, got {shown(list(budget))}"
            )
        for said in (name, *names):
            if not (isinstance(said, str) and said.isprintable() and 0 < len(said) <= _LONGEST):
                raise ValueError(
                    f"{shown(said)} is no name: give 1 to {_LONGEST} printable characters"
                )
        for skill in built:
            _check(skill)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "skills", built)
        object.__setattr__(self, "steps", budget)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.skills)

    def __len__(self) -> int:
        return len(self.skills)

    def __getitem__(self, name: str) -> Task:
        """The skill of that name; ValueError where there is none."""
        for skill in self.skills:
            if skill.name == name:
                return skill
        raise ValueError(
            f"curriculum {self.name!r} has no skill {name!r}; it has {', '.join(self.names)}"
        )

    @property
    def names(self) -> list[str]:
        """Names of the skills, in order."""
        return [skill.name for skill in self.skills]

    def to_json(self) -> dict[str, Any]:
        """Name, and each skill's id, options and steps; `from_json` rebuilds it."""
        skills = [s.spec | {"steps": n} for s, n in zip(self.skills, self.steps, strict=True)]
        return {"name": self.name, "skills": skills}

    @staticmethod
    def from_json(content: Any, where: str = "curriculum") -> "Curriculum":
        """Build a curriculum from a dict with `name` and a list `skills` of dicts with an `id`.

        Raises:
            ValueError: it is not such a dict; the message begins with `where`.
        """
        tables = content.get("skills") if isinstance(content, dict) else None
        if not isinstance(tables, list) or not tables or not all(map(_is_table, tables)):
            raise ValueError(f"{where} needs a list 'skills' of tables with an 'id'")
        if unknown := set(content) - {"name", "skills"}:
            raise ValueError(f"{where} has unknown keys: {shown(sorted(unknown))[1:-1]}")
        skills, steps = [], []
        for table in tables:
            options: dict[str, Any] = dict(table)
            name, budget = options.pop("id"), options.pop("steps", None)
            try:
                skill = make_skill(name, **options)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool)):
                raise ValueError(f"{where}: steps of {name!r} must be a whole number")
            skills.append(skill)
            steps.append(skill.steps if budget is None else budget)
        try:
            return Curriculum(str(content.get("name", "own")), skills, steps)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def under(
        self,
        horizon: int | None = None,
        success_rule: str | None = None,
        recall: int | None = None,
    ) -> "Curriculum":
        """The same skills under another protocol; None keeps each skill's own.

        Raises:
            ValueError: a skill does not take it.
        """
        chosen = {"horizon": horizon, "success_rule": success_rule, "recall": recall}
        chosen = {key: value for key, value in chosen.items() if value is not None}
        if not chosen:
            return self
        content = self.to_json()
        content["skills"] = [table | chosen for table in content["skills"]]
        return Curriculum.from_json(content)

    @property
    def protocol(self) -> dict[str, Any]:
        """Horizon and rule of success, of all skills where they agree, else one for each."""
        horizons = [skill.horizon for skill in self]
        rules = [skill.success_rule for skill in self]
        return {"horizon": _common(horizons), "success": _common(rules)}

    @property
    def observation_space(self) -> spaces.Box:
        """The one observation space, padded to the longest where they differ."""
        first = self.skills[0].observation_space
        if not self.is_padded:
            return first
        return box(-float("inf"), float("inf"), max(_size(s.observation_space) for s in self))

    @property
    def action_space(self) -> spaces.Box:
        """The one action space; [-1, 1] to the longest where they differ."""
        first = self.skills[0].action_space
        return box(-1.0, 1.0, max(_size(s.action_space) for s in self)) if self.is_padded else first

    @property
    def is_padded(self) -> bool:
        """Whether its skills differ in their spaces, so that they are padded to common ones."""
        first = self.skills[0]
        return any(
            skill.observation_space != first.observation_space
            or skill.action_space != first.action_space
            for skill in self
        )

    def vec_env(
        self,
        name: str,
        n: int,
        *,
        seed: int = 0,
        threads: int = 0,
        stagger: bool | int = False,
        device: str = "cpu",
    ) -> VecEnv:
        """N environments of one skill, in the curriculum's spaces."""
        env = self[name].vec_env(n, seed=seed, threads=threads, stagger=stagger, device=device)
        if self.is_padded:
            return PaddedVecEnv(env, self.observation_space, self.action_space)
        return env


def make_curriculum(spec: "str | Path | Sequence[str] | Curriculum") -> Curriculum:
    """Build a curriculum from whatever names it.

    Args:
        spec: A curriculum; a name of `CURRICULA`; a skill's id, or several separated by commas or
            in a list; or a `.toml` or `.json` file with `name` and a list `skills` of tables with
            `id`, optional `steps`, and options of the skill.

    Raises:
        ValueError: it names nothing, or the file is not such a file.
    """
    if isinstance(spec, Curriculum):
        return spec
    if isinstance(spec, Path) or (isinstance(spec, str) and spec.endswith((".toml", ".json"))):
        return _from_file(Path(spec))
    if isinstance(spec, str):
        if spec in CURRICULA:
            return Curriculum(spec, CURRICULA[spec])
        if "," not in spec and spec not in SKILLS and ":" not in spec and not _gymnasium(spec):
            if close := near_skill(spec):
                hint = f"did you mean the skill {close!r}?"
            else:
                hint = f"choose from {', '.join(CURRICULA)}, name skills ({', '.join(SKILLS)})"
                hint += " or give a .toml or .json file"
            raise ValueError(f"unknown curriculum {spec!r}; {hint}")
        return Curriculum(spec, spec.split(","))
    if not isinstance(spec, list | tuple) or not spec:
        raise ValueError(f"a curriculum is a name, a file or a list of skills, got {shown(spec)}")
    return Curriculum("+".join(map(str, spec)), list(spec))


def _from_file(path: Path) -> Curriculum:
    kind = path.suffix[1:]
    try:
        data = read_bytes(path, _LIMIT, follow=True)
        content = _parse_toml(data.decode()) if kind == "toml" else parse_json(data)
    except FileNotFoundError:
        raise ValueError(f"curriculum file {path} does not exist") from None
    except (ValueError, RecursionError) as error:  # of TOML, JSON and UTF-8 alike
        raise ValueError(f"curriculum file {path} is not valid {kind}: {line(error)}") from None
    if isinstance(content, dict):
        content.setdefault("name", path.stem)
    return Curriculum.from_json(content, f"curriculum file {path}")


def _parse_toml(text: str) -> dict[str, Any]:
    # The time that dotted keys take grows with the square of their dots.
    if any(line.count(".") > _DOTS for line in text.splitlines()):
        raise ValueError(f"a line has more than {_DOTS} dots")
    return tomllib.loads(text)


def _build(skills: Sequence[Task | str]) -> tuple[Task, ...]:
    """Skills, by their ids where they are some; a name's later turns are "push-2", "push-3"."""
    built: list[Task] = []
    turns: Counter[str] = Counter()
    for entry in skills:
        skill = make_skill(entry) if isinstance(entry, str) else entry
        if isinstance(skill, type):
            raise ValueError(f"a curriculum takes skills: give {skill.__name__}(), not the class")
        if not hasattr(skill, "name"):
            raise ValueError(f"{shown(entry)} is no skill, nor the id of one")
        turns[skill.name] += 1
        if isinstance(entry, str) and (turn := turns[skill.name]) > 1:
            skill = make_skill(entry, name=f"{skill.name}-{turn}")
        built.append(skill)
    return tuple(built)


def _common(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def _is_table(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str)


def _gymnasium(name: str) -> bool:
    import gymnasium as gym

    return name in gym.registry


def _size(space: spaces.Box) -> int:
    return int(space.shape[0])


def _check(skill: Task) -> None:
    for kind, space in (("observation", skill.observation_space), ("action", skill.action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(
                f"skill {skill.name!r} has the {kind} space {space}; a curriculum needs a "
                "one-dimensional Box"
            )
    if not skill.action_space.is_bounded():
        raise ValueError(f"skill {skill.name!r} has an unbounded action space; bound it")
    check_rebuilt(skill)
