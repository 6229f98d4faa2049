"""100 episodes of each skill in one batch, against one environment and one observation a forward.

Both act by a PPO of the same network. `--suite arm`: the peer is SB3's `evaluate_policy` on one of
our environments. `--suite cw10`: it is Continual World's way, the same loop on one of Meta-World's
own environments, skill after skill. "all together" is a row of the matrix, as a training measures
it: every skill of the suite, against the peers' one after another.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from metaworld_oracle import MetaWorldEnv
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from table import Row, arguments, report, row, suite

from clrl.agents import make_agent
from clrl.envs import make_curriculum
from clrl.eval import Evaluator


class Peer:
    """One environment of a skill and SB3's PPO, as others evaluate."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        cw = name.startswith("cw-")
        env = MetaWorldEnv(name.removeprefix("cw-")) if cw else gym.make(f"clrl/{name}-v0")
        self._env: Any = Monitor(env)
        self._policy = PPO("MlpPolicy", self._env, **options)

    def run(self, episodes: int) -> None:
        """Evaluate as SB3 does."""
        evaluate_policy(self._policy, self._env, n_eval_episodes=episodes)


def rate(episodes: int, run: Callable[[], object]) -> float:
    """Episodes/s."""
    start = time.perf_counter()
    run()
    return episodes / (time.perf_counter() - start)


def measure(names: list[str], episodes: int, peers: int, rounds: int) -> list[Row]:
    """Both in alternation; a peer runs fewer episodes, its rate is constant."""
    layers = [256] * 4 if names[0].startswith("cw-") else [128] * 2
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": layers}, "device": "cpu", "seed": 0}
    curriculum = make_curriculum(",".join(names))
    agent = make_agent("ppo", curriculum.observation_space, curriculum.action_space, **options)
    for skill in curriculum.names:
        agent.begin_skill(skill)
    evaluator = Evaluator(curriculum, episodes=episodes)
    each = dict.fromkeys(curriculum.names, agent)
    evaluator.scores(each)  # builds the worlds, as the peers' environments are built already
    others = [Peer(name, options) for name in names]
    ours: list[list[float]] = [[] for _ in names]
    theirs: list[list[float]] = [[] for _ in names]
    together, in_turn = [], []
    for _ in range(rounds):
        for i, skill in enumerate(curriculum.names):
            ours[i].append(rate(episodes, partial(evaluator.score, agent, skill)))
            theirs[i].append(rate(peers, partial(others[i].run, peers)))
        together.append(rate(episodes * len(names), partial(evaluator.scores, each)))
        in_turn.append(len(names) / sum(1.0 / rates[-1] for rates in theirs))
    columns = zip(names, ours, theirs, strict=True)
    rows = [row(name, "episodes/s", one, other) for name, one, other in columns]
    return [*rows, row("all together", "episodes/s", together, in_turn)]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--suite", choices=["arm", "cw10"], default="arm")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--peer-episodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    torch.set_num_threads(1)
    found = measure(suite(options.suite), options.episodes, options.peer_episodes, options.rounds)
    report(found, options.json)
