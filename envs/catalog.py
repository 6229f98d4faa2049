"""Names of the skills and curricula that come with clrl; loads neither torch nor MuJoCo."""

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clrl.envs.untrusted import line

if TYPE_CHECKING:
    from clrl.envs.curriculum import Task

SKILLS = {
    "arm-reach": "clrl.envs.arm_skills:Reach",
    "arm-press": "clrl.envs.arm_skills:Press",
    "arm-push": "clrl.envs.arm_skills:Push",
    "arm-drawer": "clrl.envs.arm_skills:Drawer",
    "arm-dial": "clrl.envs.arm_skills:Dial",
    "arm-lift": "clrl.envs.arm_skills:Lift",
    "cw-hammer": "clrl.envs.cw_tools:Hammer",
    "cw-push-wall": "clrl.envs.cw_pushing:PushWall",
    "cw-faucet-close": "clrl.envs.cw_fixtures:FaucetClose",
    "cw-push-back": "clrl.envs.cw_pushing:PushBack",
    "cw-stick-pull": "clrl.envs.cw_tools:StickPull",
    "cw-handle-press-side": "clrl.envs.cw_fixtures:HandlePressSide",
    "cw-push": "clrl.envs.cw_pushing:Push",
    "cw-shelf-place": "clrl.envs.cw_pushing:ShelfPlace",
    "cw-window-close": "clrl.envs.cw_fixtures:WindowClose",
    "cw-peg-unplug-side": "clrl.envs.cw_tools:PegUnplugSide",
}

_CW10 = tuple(name for name in SKILLS if name.startswith("cw-"))  # in the benchmark's order

CURRICULA = {
    "arm3": ("arm-push", "arm-dial", "arm-drawer"),
    "arm6": ("arm-push", "arm-dial", "arm-drawer", "arm-press", "arm-lift", "arm-reach"),
    "cw3": ("cw-faucet-close", "cw-handle-press-side", "cw-window-close"),
    "cw10": _CW10,
    "cw20": _CW10 * 2,
}


def make_skill(key: str, /, **options: Any) -> "Task":
    """Build a skill from its id.

    Args:
        key: An id of `SKILLS`, a class as "module:Class", or a Gymnasium id such as "Reacher-v5".
        options: Arguments of the skill's class.

    Raises:
        ValueError: nothing has that name, or it does not take those options.
    """
    if isinstance(key, type):
        raise ValueError(f"a skill is named by its id, here {skill_id(key)!r}, not by its class")
    registered = key.removeprefix("clrl/").removesuffix("-v0")  # as Gymnasium has ours
    key = registered if registered in SKILLS else key
    path = SKILLS.get(key, key)
    if ":" not in path:
        path, options = "clrl.envs.gym_skill:GymSkill", {"key": key, **options}
    kind = _load(path, key)
    try:
        skill: Task = kind(**options)
    except (AttributeError, TypeError) as error:
        said = line(error)
        if " unexpected keyword argument " in said:  # of a class with a name no user knows
            taken = f"; it takes {', '.join(_options(kind))}"
            said = f"has no option {said.partition(' argument ')[2]}{taken}"
        raise ValueError(f"skill {key!r} {said}") from None
    if not hasattr(skill, "name"):
        raise ValueError(f"{key!r} is no skill: it has no name")
    if ":" in key:
        _check_spec(key, kind, skill, options)
    return skill


def check_rebuilt(skill: "Task") -> None:
    """Refuse a skill of a user's that keeps an option of its class but would be rebuilt without it.

    An option counts as kept where the skill has it under its own name, as a plain value.
    """
    kind = type(skill)
    if ":" in (key := str(skill.spec.get("id"))):
        kept = {n: getattr(skill, n, None) for n in signature(kind).parameters}
        plain = {n: v for n, v in kept.items() if isinstance(v, bool | int | float | str | tuple)}
        _check_spec(key, kind, skill, plain)


def _check_spec(key: str, kind: type, skill: "Task", options: dict[str, Any]) -> None:
    """Refuse a class of a user's that takes an option and would be rebuilt without it."""
    defaults = signature(kind).parameters
    for name, value in options.items():
        plain = name in defaults and defaults[name].default == value
        if name not in skill.spec and not plain:
            raise ValueError(
                f"skill {key!r} takes {name!r} but would be rebuilt without it; let its property "
                f"`spec` return super().spec | {{{name!r}: ...}}"
            )


def _options(kind: type) -> list[str]:
    """What a class takes, and what its bases take where it hands the rest on to them."""
    found: dict[str, None] = {}
    for base in (base for base in kind.__mro__ if "__init__" in vars(base)):
        parameters = list(signature(vars(base)["__init__"]).parameters.values())[1:]
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        found.update(dict.fromkeys(p.name for p in named if p.name != "key"))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(found)


def _load(path: str, key: str) -> Any:
    """The class of a skill. A file may have named it: nothing is called that is no skill."""
    module, _, attribute = path.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{key!r} is of Python's own library, not a skill")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        hint = f"; PYTHONPATH must lead to {module}" if isinstance(error, ImportError) else ""
        raise ValueError(f"skill {key!r} cannot be imported: {line(error)}{hint}") from None
    if not isinstance(kind, type):
        raise ValueError(f"{key!r} is no skill: it is no class")
    if missing := [name for name in ("spec", "vec_env") if not hasattr(kind, name)]:
        raise ValueError(f"{key!r} is no skill: it has no {missing[0]}; see clrl.envs.Skill")
    return kind


def skill_id(kind: type) -> str:
    """The id of a skill's class: its name here, or "module:Class"."""
    module = kind.__module__
    if module == "__main__":  # another process finds a script by its file's name
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or module).stem
    path = f"{module}:{kind.__qualname__}"
    return next((name for name, known in SKILLS.items() if known == path), path)


def near_skill(name: str) -> str | None:
    """The skill that somebody meant by a name that is none, if one is near."""
    short = {skill.partition("-")[2]: skill for skill in reversed(SKILLS)}  # in results
    close = [short[name]] if name in short else get_close_matches(name, SKILLS, 1)
    return close[0] if close else None


def unknown_skill(name: str) -> str:
    """The message for a name that is no skill."""
    if close := near_skill(name):
        return f"unknown skill {name!r}; did you mean {close!r}?"
    return f"unknown skill {name!r}; choose from {', '.join(SKILLS)}, or a Gymnasium id"


def register() -> None:
    """Register every skill with Gymnasium, where that is installed, as `clrl/<id>-v0`."""
    if find_spec("gymnasium") is None:
        return
    import gymnasium as gym

    for name in SKILLS:
        gym.register(
            f"clrl/{name}-v0",
            entry_point="clrl.envs.gym_env:SkillEnv",
            vector_entry_point="clrl.envs.gym_env:SkillVectorEnv",
            kwargs={"skill": name},
        )
