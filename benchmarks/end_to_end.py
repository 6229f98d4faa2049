"""Steps/s of PPO learning a skill, over Stable-Baselines3's PPO on the same worlds.

All have the same hyper-parameters, `clrl train`'s but for the normalisation of observations, which
SB3's policy does not have, and learn in alternation, each in a process of its own. SB3 comes twice:
as it is, with as many torch threads as there are cores, and on one, which some processors do
better with. Below the rate is where a rollout's time goes: the worlds, what collecting adds to them
(the policy, mostly), and the update. `--threads 1` leaves one core to the physics.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from apart import apart
from stable_baselines3 import PPO
from table import Row, arguments, report, row

from clrl.agents import ContinualPPO
from clrl.agents.lanes import cores, set_lanes
from clrl.config import PRESETS
from clrl.envs import make_skill

PARTS = ("worlds", "collecting", "update")


class Learner:
    """A PPO on its own worlds, with a clock on its parts."""

    def __init__(self, kind: Any, name: str, worlds: int, threads: int) -> None:
        options = dict(PRESETS["ppo"]["options"])
        policy = {k: v for k, v in options.pop("policy_kwargs").items() if k != "normalize"}
        env: Any = make_skill(name).vec_env(worlds, seed=0, threads=threads, stagger=True)
        self.agent = kind("MlpPolicy", env, policy_kwargs=policy, seed=0, device="cpu", **options)
        self.seconds: dict[str, float] = defaultdict(float)
        env.step_wait = self._timed("worlds", env.step_wait)
        self.agent.train = self._timed("update", self.agent.train)
        self.agent.collect_rollouts = self._timed("collecting", self.agent.collect_rollouts)

    def learn(self, rollouts: int) -> dict[str, float]:
        """Learn, and give steps/s in all and milliseconds a rollout in each part."""
        steps = rollouts * self.agent.n_steps * self.agent.n_envs
        self.seconds.clear()
        start = time.perf_counter()
        self.agent.learn(steps, reset_num_timesteps=False)
        rate = steps / (time.perf_counter() - start)
        self.seconds["collecting"] -= self.seconds["worlds"]
        return {"learn": rate} | {part: 1e3 * self.seconds[part] / rollouts for part in PARTS}

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.seconds[part] += time.perf_counter() - start
            return result

        return timed


def alone(side: str, name: str, worlds: int, options: Any) -> Callable[[], dict[str, float]]:
    """What has a learner learn some more, where it has the process for itself."""
    kind = ContinualPPO if side == "clrl" else PPO
    torch.set_num_threads((options.threads or cores()) if side == "stock" else 1)
    set_lanes(options.threads)
    learner = Learner(kind, name, worlds, options.threads)
    learner.learn(2)
    return partial(learner.learn, options.rollouts)


def measure(name: str, worlds: int, options: Any) -> list[Row]:
    """Alternate the learners."""
    with (
        apart(alone, "clrl", name, worlds, options) as clrl,
        apart(alone, "stock", name, worlds, options) as stock,
        apart(alone, "one thread", name, worlds, options) as one_thread,
    ):
        rounds = [(clrl(), stock(), one_thread()) for _ in range(options.rounds)]
    ours, *others = zip(*rounds, strict=True)
    rows = []
    for title, theirs in zip((f"{name} x {worlds}", "SB3 on one thread"), others, strict=True):
        rows.append(row(title, "steps/s", [m["learn"] for m in ours], [m["learn"] for m in theirs]))
        for part in PARTS:
            columns = [m[part] for m in ours], [m[part] for m in theirs]
            made = row(f"  {part}", "ms/rollout", *columns)
            low, high = made["spread"]
            rows.append(made | {"ratio": 1 / made["ratio"], "spread": [1 / high, 1 / low]})
    return rows


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--skills", nargs="+", default=["arm-reach"])
    parser.add_argument("--worlds", type=int, nargs="+", default=[64])
    parser.add_argument("--rollouts", type=int, default=4, help="of each in a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--threads", type=int, default=0, help="of physics and networks, 0 for all cores"
    )


if __name__ == "__main__":
    chosen = arguments(__doc__ or "", configure)
    report(
        [r for n in chosen.worlds for name in chosen.skills for r in measure(name, n, chosen)],
        chosen.json,
    )
