"""Golden pairs: what the trained agent did, for whoever runs it elsewhere to compare with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clrl.envs.curriculum import Curriculum
from clrl.voices import Voice

Array = NDArray[Any]
PAIRS = 32  # per skill
TOLERANCE = 1e-5
_WORLDS, _SEED = 8, 7


def collect(voices: Sequence[Voice], curriculum: Curriculum) -> dict[str, dict[str, Array]]:
    """Observations along the episodes of every skill and the actions that torch computes.

    Args:
        voices: Who performs the skills.
        curriculum: The same skills.

    Returns:
        For each skill `observation` (PAIRS, obs) and `action` (PAIRS, act), in the skill's own
        sizes and bounds, as its environment takes them.
    """
    return {voice.name: _pairs(voice.agent, curriculum, voice.name) for voice in voices}


def _pairs(agent: Any, curriculum: Curriculum, name: str) -> dict[str, Array]:
    skill = curriculum[name]
    env = curriculum.vec_env(name, _WORLDS, seed=_SEED, threads=1)
    seen = [np.array(env.reset())]
    for _ in range(skill.horizon - 1):
        seen.append(np.array(env.step(agent.act(seen[-1], name))[0]))
    env.close()
    rows = np.concatenate(seen)
    observations = rows[np.linspace(0, len(rows) - 1, PAIRS).round().astype(int)]
    actions = np.asarray(agent.act(observations, name))
    if curriculum.is_padded:
        space = skill.action_space
        actions = np.clip(actions[:, : space.shape[0]], -1.0, 1.0)
        actions = space.low + 0.5 * (actions + 1.0) * (space.high - space.low)
    size = skill.observation_space.shape[0]
    return {"observation": observations[:, :size], "action": actions.astype(np.float32)}
