"""Rows of an episode: what is kept and when, and that a saved state goes on the same."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import clrl  # noqa: F401  # registers the ids
from clrl.envs import make_curriculum, make_skill

SIZE, HORIZON = 23, 12


def env(recall: int, n: int = 3, seed: int = 0) -> Any:
    skill: Any = make_skill("arm-reach", horizon=HORIZON, recall=recall)
    return skill.vec_env(n, seed=seed, threads=1)


def rolled(worlds: Any, steps: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    seen = [worlds.reset()]
    for _ in range(steps):
        action = random.uniform(-1, 1, (worlds.num_envs, 4)).astype(np.float32)
        seen.append(worlds.step(action)[0])
    return seen


@pytest.mark.parametrize("rows", [1, 4, HORIZON])
def test_rows_are_evenly_spread_observations_of_this_episode(rows: int) -> None:
    plain, shown = rolled(env(0), HORIZON + 5), rolled(env(rows), HORIZON + 5)
    every = -(-HORIZON // rows)
    for t, observation in enumerate(shown):
        start = t // HORIZON * HORIZON
        assert (observation[:, rows * SIZE :] == plain[t]).all()
        kept = [plain[u] for u in range(start, t, every)][-rows:]
        empty = [np.zeros_like(plain[0])] * (rows - len(kept))
        assert (observation[:, : rows * SIZE] == np.concatenate([*empty, *kept], axis=1)).all()


def test_what_ended_an_episode_still_shows_its_rows() -> None:
    worlds = env(3)
    rolled(worlds, HORIZON - 1)
    infos = worlds.step(np.zeros((3, 4), np.float32))[3]
    last = infos[0]["terminal_observation"].reshape(4, SIZE)
    assert (last != 0.0).any(axis=1).all()


def test_a_state_goes_on_bit_for_bit() -> None:
    worlds, other = env(4), env(4, seed=5)
    rolled(worlds, 7)
    state = worlds.get_state()
    action = np.full((3, 4), 0.3, np.float32)
    following = [worlds.step(action)[0] for _ in range(8)]
    other.reset()
    other.set_state(state)
    for expected in following:
        assert (other.step(action)[0] == expected).all()


def test_every_face_shows_rows() -> None:
    skill: Any = make_skill("arm-reach", recall=2)
    assert skill.observation_space.shape == (3 * SIZE,)
    single = gym.make("clrl/arm-reach-v0", skill=skill)
    observation = single.reset(seed=0)[0]
    assert observation in single.observation_space
    many = gym.make_vec("clrl/arm-reach-v0", num_envs=2, skill=skill)
    assert many.reset(seed=0)[0].shape == (2, 3 * SIZE)


def test_a_curriculum_keeps_it() -> None:
    curriculum = make_curriculum(["arm-reach", "arm-press"]).under(recall=5)
    again = type(curriculum).from_json(curriculum.to_json())
    assert [skill.observation_space.shape for skill in again] == [(6 * SIZE,)] * 2
    assert torch.isfinite(torch.as_tensor(again.vec_env("press", 1, threads=1).reset())).all()


@pytest.mark.parametrize("recall", [-1, 13, 1.5])
def test_rows_out_of_range_are_refused(recall: Any) -> None:
    with pytest.raises(ValueError, match=r"recall must be a whole number in \[0, 12\]"):
        make_skill("arm-reach", horizon=HORIZON, recall=recall)
