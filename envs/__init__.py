"""clrl.envs: skills, curricula, and the worlds they run in."""

if __name__ != "clrl.envs":
    raise ImportError("this folder is the source of clrl.envs; import that instead")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clrl.envs.arm import ArmSkill
    from clrl.envs.catalog import CURRICULA, SKILLS, make_skill
    from clrl.envs.curriculum import Curriculum, make_curriculum
    from clrl.envs.gym_env import SkillEnv
    from clrl.envs.gym_skill import GymSkill
    from clrl.envs.skill import Skill
    from clrl.envs.world import World, make_world

# Name to the module it lives in, loaded when first asked for: importing clrl costs no torch.
_EXPORTS = {
    "ArmSkill": "arm",
    "CURRICULA": "catalog",
    "SKILLS": "catalog",
    "make_skill": "catalog",
    "Curriculum": "curriculum",
    "make_curriculum": "curriculum",
    "GymSkill": "gym_skill",
    "Skill": "skill",
    "SkillEnv": "gym_env",
    "World": "world",
    "make_world": "world",
}

__all__ = [
    "CURRICULA",
    "SKILLS",
    "ArmSkill",
    "Curriculum",
    "GymSkill",
    "Skill",
    "SkillEnv",
    "World",
    "make_curriculum",
    "make_skill",
    "make_world",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
