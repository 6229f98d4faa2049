"""100 episodes of each skill in one batch, against one environment and one observation a forward.

Both act by a PPO of the same network. `--suite arm`: the peer is SB3's `evaluate_policy` on one of
our environments. `--suite cw10`: it is Continual World's way, the same loop on one of Meta-World's
own environments, skill after skill.
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

from clrl.agents import make_agent
from clrl.envs import make_curriculum
from clrl.eval import Evaluator


def measure(name: str, episodes: int, peers: int, rounds: int) -> tuple[list[float], list[float]]:
    """Episodes/s of both, in alternation; the peer runs fewer episodes, its rate is constant."""
    if name.startswith("cw-"):
        env = Monitor(MetaWorldEnv(name.removeprefix("cw-")))
        layers = [256] * 4
    else:
        env, layers = Monitor(gym.make(f"clrl/{name}-v0")), [128] * 2
    options = {"policy_kwargs": {"net_arch": layers}, "device": "cpu", "seed": 0}
    policy = PPO("MlpPolicy", env, **options)  # type: ignore[arg-type]
    curriculum = make_curriculum(name)
    skill = curriculum.names[0]
    spaces = curriculum.observation_space, curriculum.action_space
    agent = make_agent("ppo", *spaces, **options)  # type: ignore[arg-type]
    agent.begin_skill(skill)
    evaluator = Evaluator(curriculum, episodes=episodes)
    evaluator.score(agent, skill)  # builds the worlds, as the peer's environment is built already
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        evaluator.score(agent, skill)
        ours.append(episodes / (time.perf_counter() - start))
        start = time.perf_counter()
        evaluate_policy(policy, env, n_eval_episodes=peers)
        theirs.append(peers / (time.perf_counter() - start))
    return ours, theirs


def together(rates: list[list[float]]) -> list[float]:
    """Episodes/s of all skills one after another, round by round."""
    return [len(rates) / sum(1.0 / rate for rate in round_) for round_ in zip(*rates, strict=True)]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--suite", choices=["arm", "cw10"], default="arm")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--peer-episodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    torch.set_num_threads(1)
    names = suite(options.suite)
    pairs = [
        measure(name, options.episodes, options.peer_episodes, options.rounds) for name in names
    ]
    rows: list[Row] = [
        row(name, "episodes/s", *pair) for name, pair in zip(names, pairs, strict=True)
    ]
    ours, theirs = zip(*pairs, strict=True)
    rows.append(row("all together", "episodes/s", together([*ours]), together([*theirs])))
    report(rows, options.json)
