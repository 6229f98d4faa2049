"""Names of the skills and curricula that come with clrl; loads neither torch nor MuJoCo."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clrl.envs.curriculum import Task

SKILLS = {
    "arm-reach": "clrl.envs.arm_skills:Reach",
    "arm-press": "clrl.envs.arm_skills:Press",
    "arm-push": "clrl.envs.arm_skills:Push",
    "arm-drawer": "clrl.envs.arm_skills:Drawer",
    "arm-dial": "clrl.envs.arm_skills:Dial",
    "arm-lift": "clrl.envs.arm_skills:Lift",
}

CURRICULA = {
    "arm3": ("arm-push", "arm-drawer", "arm-dial"),
    "arm6": ("arm-push", "arm-drawer", "arm-dial", "arm-press", "arm-lift", "arm-reach"),
}


def make_skill(name: str, **options: Any) -> "Task":
    """Build a skill from its id.

    Args:
        name: An id of `SKILLS`, a class as "module:Class", or a Gymnasium id such as "Reacher-v5".
        options: Arguments of the skill's class.

    Raises:
        ValueError: nothing has that name, or it does not take those options.
    """
    path = SKILLS.get(name, name)
    if ":" not in path:
        path, options = "clrl.envs.gym_skill:GymSkill", {"name": name, **options}
    module, _, attribute = path.partition(":")
    try:
        skill: Task = getattr(import_module(module), attribute)(**options)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"skill {name!r} cannot be imported: {error}") from None
    except TypeError as error:
        raise ValueError(f"skill {name!r}: {error}") from None
    return skill


def skill_id(kind: type) -> str:
    """The id of a skill's class: its name here, or "module:Class"."""
    module = kind.__module__
    if module == "__main__":  # another process finds a script by its file's name
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or module).stem
    path = f"{module}:{kind.__qualname__}"
    return next((name for name, known in SKILLS.items() if known == path), path)


def unknown_skill(name: str) -> str:
    """The message for a name that is no skill."""
    return f"unknown skill {name!r}; choose from {', '.join(SKILLS)}, or a Gymnasium id"


def register() -> None:
    """Register every skill with Gymnasium as `clrl/<id>-v0`."""
    import gymnasium as gym

    for name in SKILLS:
        gym.register(
            f"clrl/{name}-v0",
            entry_point="clrl.envs.gym_env:SkillEnv",
            vector_entry_point="clrl.envs.gym_env:SkillVectorEnv",
            kwargs={"skill": name},
        )
