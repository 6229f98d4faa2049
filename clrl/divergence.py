"""What a run does when physics diverges: it counts, keeps how it came to that, and may stop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from stable_baselines3.common.callbacks import BaseCallback

from clrl.agents import NumericalError
from clrl.envs.divergence import Divergence, Divergences

WINDOW, MOST = 100_000, 10
"""More than 10 in 100,000 control steps stop a training: 1 in 10,000."""

_KEPT = 20  # files in all


class DivergenceGuard(BaseCallback):
    """Looks after every step whether the environment took one back.

    An environment on a device knows of it only where it waits for the device, and is asked to
    (`check`) at the end of every rollout.

    Attributes:
        counts: `total` in this run, and `recent` in the present `window` of control steps; part
            of a checkpoint, so that a resumed run stops where an undisturbed one does.
    """

    def __init__(self, folder: Path, skill: str, env: Any, counts: dict[str, int]) -> None:
        """Watch one environment.

        Args:
            folder: Where to keep `STEP-SKILL-wWORLD.safetensors` and `.json`.
            skill: Its name.
            env: An environment with `divergences` and `check`.
            counts: See the attribute; changed in place.
        """
        super().__init__()
        self.counts = counts
        self._folder, self._skill = folder, skill
        self._env = env
        self._found: Divergences = env.divergences
        self._before = self._found.count

    def _on_step(self) -> bool:
        self._count()
        return True

    def _count(self) -> None:
        if self._found.count == self._before:
            return
        new, self._before = self._found.count - self._before, self._found.count
        window = self.num_timesteps // WINDOW
        if window != self.counts["window"]:
            self.counts.update(window=window, recent=0)
        self.counts["total"] += new
        self.counts["recent"] += new
        for divergence in self._found.take():
            self._keep(divergence)
        if self.counts["recent"] > MOST:
            raise NumericalError(
                f"skill {self._skill!r}: physics diverged {self.counts['recent']} times within "
                f"{WINDOW:,} control steps, at step {self.num_timesteps}, and at most {MOST} are "
                f"borne; what led there is in {self._folder}; training stopped"
            )

    def _on_rollout_end(self) -> None:
        self._env.check()
        self._count()
        self.logger.record("env/diverged", self.counts["total"])

    def _keep(self, divergence: Divergence) -> None:
        self._folder.mkdir(exist_ok=True)
        name = f"{self.num_timesteps:09d}-{self._skill.replace('/', '-')}-w{divergence.world}"
        if len(list(self._folder.glob("*.json"))) >= _KEPT:
            return
        facts = {k: np.ascontiguousarray(v) for k, v in divergence.facts.items()}
        save_file(facts, self._folder / f"{name}.safetensors")
        said = {
            "skill": self._skill,
            "step": self.num_timesteps,
            "world": divergence.world,
            "elapsed": divergence.elapsed,
        }
        (self._folder / f"{name}.json").write_text(json.dumps(said) + "\n")
