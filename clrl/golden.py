"""Golden pairs: what the trained agent did, for whoever runs it elsewhere to compare with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clrl.envs.curriculum import Curriculum

Array = NDArray[Any]
PAIRS = 32  # per skill
TOLERANCE = 1e-5
_WORLDS, _SEED = 8, 7


def collect(agent: Any, curriculum: Curriculum) -> dict[str, dict[str, Array]]:
    """Observations along the episodes of every skill and the actions that torch computes.

    Args:
        agent: A `ContinualPPO` or `ContinualSAC`.
        curriculum: What it learned.

    Returns:
        For each skill `observation` (PAIRS, obs) and `action` (PAIRS, act), in the skill's own
        sizes and bounds, as its environment takes them.
    """
    return {name: _pairs(agent, curriculum, name) for name in agent.skills}


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
