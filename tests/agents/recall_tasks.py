"""Two toy tasks that an agent can only solve with a memory, by construction."""

from typing import Any

import numpy as np
from gymnasium import spaces

from tests.agents.toy import HORIZON, PointVecEnv

CODE, CUES = 16, 256  # numbers of a cue; cues in the book


class CueVecEnv(PointVecEnv):
    """Say at every step what was shown at the first one only: two numbers in [-1, 1].

    The reward is minus the mean distance to them. Whoever sees the present alone cannot earn more
    than -1/2 a step on average after the first: the best guess is 0.
    """

    def __init__(self, n: int = 32, sign: float = 1.0, seed: int = 0) -> None:
        super().__init__(n, sign, seed)
        self.observation_space = spaces.Box(-5, 5, (4,), np.float32)

    def _observe(self) -> Any:
        shown = self.position if self.clock == 0 else np.zeros_like(self.position)
        rest = [[self.clock == 0, self.clock / HORIZON]] * self.num_envs
        return np.concatenate((self.sign * shown, rest), axis=1).astype(np.float32)

    def step_wait(self) -> Any:
        target = self.position.copy()
        observation, _, done, infos = super().step_wait()
        if not done.all():
            self.position = target
        return observation, -np.abs(self.actions - target).mean(axis=1), done, infos


class BookVecEnv(PointVecEnv):
    """A book of cues and what they mean, two numbers each in [-1, 1].

    While it is open, an observation shows a cue and its meaning; else the cue alone. The reward is
    minus the mean distance of the action to the meaning. Nothing but the open book tells what a
    cue means that is not among those trained on.
    """

    def __init__(self, cues: range, is_open: bool, n: int = 32, seed: int = 0) -> None:
        super().__init__(n, 1.0, seed)
        self.observation_space = spaces.Box(-5, 5, (CODE + 2,), np.float32)
        book = np.random.default_rng(7)
        self.codes = np.sign(book.normal(size=(CUES, CODE)))
        self.meaning = book.uniform(-1, 1, (CUES, 2))
        self.cues, self.is_open = np.array(cues), is_open
        self.cue = np.zeros(n, dtype=int)

    def _observe(self) -> Any:
        self.cue = self.random.choice(self.cues, self.num_envs)
        meaning = self.meaning[self.cue] * self.is_open
        return np.concatenate((self.codes[self.cue], meaning), axis=1).astype(np.float32)

    def step_wait(self) -> Any:
        target = self.meaning[self.cue]
        observation, _, done, infos = super().step_wait()
        return observation, -np.abs(self.actions - target).mean(axis=1), done, infos
