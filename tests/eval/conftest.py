"""A small result: two skills, the first half lost."""

from collections.abc import Callable
from typing import Any

import pytest

from clrl.eval.retention import Retention

FIELDS: dict[str, Any] = {
    "curriculum": "arm2",
    "skills": ["reach", "push"],
    "agent": "ppo",
    "protections": ["ewc", "replay"],
    "seed": 0,
    "protocol": {
        "episodes": 100,
        "horizon": 50,
        "success": "any-step",
        "deterministic": True,
        "seed": 1000,
        "device": "cpu",
    },
    "successes": [[0, 10], [80, 10], [40, 90]],
    "returns": [[-5.0, -6.5], [1e300, 0.0], [0.1, 0.2]],
    "cost": {
        "wall_seconds": 731.2,
        "train_seconds": 640.0,
        "eval_seconds": 12.3,
        "env_steps": 400_000,
        "updates": 1200,
        "parameters": 143_000,
        "protection_bytes": 1_240_000,
        "protection_seconds": 4000.0,
    },
    "versions": {
        "clrl": "0.1.0",
        "mujoco": "3.17.0",
        "torch": "2.13.0",
        "stable_baselines3": "2.9.2",
        "gymnasium": "1.4.0",
        "python": "3.11.9",
    },
}


@pytest.fixture(scope="session")
def make() -> Callable[..., Retention]:
    """Builds the result, with other arguments of `Retention.measured` where given."""
    return lambda **changes: Retention.measured(**{**FIELDS, **changes})


@pytest.fixture(scope="session")
def result(make: Callable[..., Retention]) -> Retention:
    """The result as it is."""
    return make()
