"""What a checkpoint says it is, so that it is never taken for something else.

Every load compares agent, protections, skills with their protocol, and the layout of observations
and actions, one by one; a mismatch is an error that names both sides. Weights of the same shapes
would load in silence otherwise.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from clrl.config import Config, versions
from clrl.envs.curriculum import Curriculum, Task
from clrl.envs.layout import layout_of
from clrl.envs.untrusted import shown

Identity = dict[str, Any]


def identity(config: Config, curriculum: Curriculum) -> Identity:
    """What makes a run's checkpoints its own; JSON values."""
    return {
        "agent": config.agent,
        "protections": config.methods,
        "skills": {skill.name: _skill(skill) for skill in curriculum},
        "versions": versions(),
    }


def check(found: Any, config: Config, curriculum: Curriculum, where: str) -> None:
    """Compare what a checkpoint says with what its run says, but for versions.

    Args:
        found: `identity` as it was saved; None for checkpoints from before it was, which pass.
        config: Of the run.
        curriculum: Of the run.
        where: For messages.

    Raises:
        ValueError: they differ; one line that names both.
    """
    if found is None:
        return
    if not isinstance(found, dict) or not isinstance(found.get("skills"), dict):
        raise ValueError(f"{where} does not say what it is")
    expected = identity(config, curriculum)
    pairs = {key: (found.get(key), expected[key]) for key in ("agent", "protections")}
    pairs["skills"] = (list(found["skills"]), list(expected["skills"]))
    for name, skill in expected["skills"].items():
        saved = found["skills"].get(name)
        for key, value in skill.items():
            was = saved.get(key) if isinstance(saved, dict) else None
            pairs[f"{key} of skill {name!r}"] = (was, value)
    for key, (was, now) in pairs.items():
        if was != now:
            raise ValueError(f"{where}: {key} was {shown(was)}, and here it is {shown(now)}")


def check_heads(heads: Any, curriculum: Curriculum, where: str) -> None:
    """An agent's heads are the curriculum's first skills; ValueError that names both otherwise."""
    if heads != curriculum.names[: len(heads)]:
        raise ValueError(
            f"{where}: the agent has learned {shown(heads)}, and the curriculum begins with "
            f"{shown(curriculum.names[: len(heads)])}"
        )


def other_versions(found: Any) -> str | None:
    """How versions differ from those a checkpoint was made with, in words, or None."""
    saved = found.get("versions") if isinstance(found, dict) else None
    if not isinstance(saved, Mapping):
        return None
    now = versions()
    differ = [
        f"{name} {saved.get(name)}, here {v}" for name, v in now.items() if saved.get(name) != v
    ]
    return f"made with {'; '.join(differ)}" if differ else None


def _skill(skill: Task) -> dict[str, Any]:
    return {
        "id": skill.spec["id"],
        "horizon": skill.horizon,
        "success rule": skill.success_rule,
        "observation": _digest(skill, "observation"),
        "action": _digest(skill, "action"),
    }


def _digest(skill: Task, which: str) -> str:
    """Size, and a digest of names, units, scales and bounds in their order."""
    space: Any = getattr(skill, f"{which}_space")
    parts = [asdict(part) | {"text": ""} for part in layout_of(skill, which)]
    bounds = [np.asarray(bound, np.float64).tolist() for bound in (space.low, space.high)]
    data = json.dumps([parts, bounds], sort_keys=True).encode()
    return f"{space.shape[0]} numbers, layout {hashlib.sha256(data).hexdigest()[:12]}"
