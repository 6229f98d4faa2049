"""100 episodes of each skill in one batch, against one environment and one observation a forward.

`--suite arm`: the peer is SB3's `evaluate_policy` on one of our environments. `--suite cw10`: it is
Continual World's way, the same loop on one of Meta-World's own environments, skill after skill.
"""

import argparse
import time

import gymnasium as gym
import torch
from metaworld_oracle import MetaWorldEnv
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from table import Row, arguments, report, row, suite

from clrl.envs import make_curriculum
from clrl.eval import Evaluator


def measure(name: str, episodes: int, peers: int, rounds: int) -> Row:
    """Episodes/s of both, in alternation; the peer runs fewer episodes, its rate is constant."""
    torch.set_num_threads(1)
    if name.startswith("cw-"):
        env = Monitor(MetaWorldEnv(name.removeprefix("cw-")))
        layers = [256] * 4
    else:
        env, layers = Monitor(gym.make(f"clrl/{name}-v0")), [128] * 2
    policy = PPO("MlpPolicy", env, policy_kwargs={"net_arch": layers}, device="cpu", seed=0)
    curriculum = make_curriculum(name)
    skill = curriculum.names[0]
    evaluator = Evaluator(curriculum, episodes=episodes)
    evaluator.score(policy, skill)  # builds the worlds, as the peer's environment is built already
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        evaluator.score(policy, skill)
        ours.append(episodes / (time.perf_counter() - start))
        start = time.perf_counter()
        evaluate_policy(policy, env, n_eval_episodes=peers)
        theirs.append(peers / (time.perf_counter() - start))
    return row(name, "episodes/s", ours, theirs)


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--suite", choices=["arm", "cw10"], default="arm")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--peer-episodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    rows = [
        measure(name, options.episodes, options.peer_episodes, options.rounds)
        for name in suite(options.suite)
    ]
    report(rows, options.json)
