"""100 episodes of each arm skill in one batch, against SB3's evaluate_policy on one environment."""

import argparse
import time

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from table import Row, arguments, report, row

from clrl.envs import SKILLS, make_curriculum
from clrl.eval import evaluate_skill


def measure(name: str, episodes: int, peers: int, rounds: int) -> Row:
    """Episodes/s of both, in alternation; the peer runs fewer episodes, its rate is constant."""
    torch.set_num_threads(1)
    env = Monitor(gym.make(f"clrl/{name}-v0"))
    policy = PPO("MlpPolicy", env, policy_kwargs={"net_arch": [128, 128]}, device="cpu", seed=0)
    curriculum = make_curriculum(name)
    skill = curriculum.names[0]
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        evaluate_skill(policy, curriculum, skill, episodes=episodes)
        ours.append(episodes / (time.perf_counter() - start))
        start = time.perf_counter()
        evaluate_policy(policy, env, n_eval_episodes=peers)
        theirs.append(peers / (time.perf_counter() - start))
    return row(name, "episodes/s", ours, theirs)


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--peer-episodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    report(
        [measure(n, options.episodes, options.peer_episodes, options.rounds) for n in SKILLS],
        options.json,
    )
