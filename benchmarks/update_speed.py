"""SAC's gradient steps: ours against Stable-Baselines3's `SAC.train`, and what protections add.

`ours` and `theirs` are updates/s on the same networks, batches and cores, in alternation. SB3 has
as many torch threads as there are cores; so has ours where it says so, and elsewhere a lane on
each, as `clrl train` has. On a CPU each has a process of its own. For a protection `theirs` is the
unprotected agent. "of the ceiling" is the share of time that the products of matrices of an update
would take at the fastest rate measured for them in this run.
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from apart import apart
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure as configure_logger
from table import Row, arguments, report, row
from torch.nn import functional

from clrl.agents import make_agent
from clrl.agents.lanes import set_lanes

OBS, ACT = 39, 4  # of Meta-World
OBSERVATIONS = spaces.Box(-10, 10, (OBS,), np.float32)
ACTIONS = spaces.Box(-1, 1, (ACT,), np.float32)
NETWORKS: dict[str, tuple[list[int], int, bool]] = {
    "2x256 b256": ([256] * 2, 256, False),
    "4x256 b128": ([256] * 4, 128, False),
    "4x256 layer norm b128": ([256] * 4, 128, True),
}
PROTECTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "EWC": {"ewc": {}},
    "distillation": {"distill": {}},
    "replay": {"replay": {}},
    "distillation + replay": {"distill": {}, "replay": {}},
}


def ours(network: str, device: str, skills: int = 1, protect: Any = None, **options: Any) -> Any:
    """Our agent in the last of some skills, its earlier ones remembered."""
    layers, _, layer_norm = NETWORKS[network]
    policy = {"net_arch": layers, "layer_norm": layer_norm}
    agent: Any = make_agent(
        "sac", OBSERVATIONS, ACTIONS, protect=protect, policy_kwargs=policy,
        buffer_size=20_000, learning_starts=0, device=device, **options,
    )  # fmt: skip
    agent.set_logger(configure_logger(None, []))
    for i in range(skills):
        agent.begin_skill(f"skill {i}")
        agent._fresh_from = 0
        fill(agent.replay_buffer)
        agent.num_timesteps += 1
        agent._protect("collect")
        if i < skills - 1:
            agent.end_skill()
    return agent


def theirs(network: str, device: str) -> Any:
    """SB3's agent, or ours on SB3's `train` where the networks are none of SB3's."""
    layers, _, layer_norm = NETWORKS[network]
    if layer_norm:
        return ours(network, device, updates="sb3")
    kind: Any = SAC  # an environment comes later, which its types do not foresee
    agent = kind(
        "MlpPolicy", None, policy_kwargs={"net_arch": layers}, buffer_size=20_000, seed=0,
        target_entropy=-float(ACT), device=device, _init_setup_model=False,
    )  # fmt: skip
    agent.observation_space, agent.action_space, agent.n_envs = OBSERVATIONS, ACTIONS, 1
    agent._setup_model()
    agent.set_logger(configure_logger(None, []))
    fill(agent.replay_buffer)
    return agent


def fill(buffer: Any, count: int = 10_000) -> None:
    """Store random transitions."""
    random = np.random.default_rng(0)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        column = getattr(buffer, name)[:count]
        values = random.normal(size=column.shape).astype(np.float32)
        if name == "actions":
            values = np.tanh(values)
        elif name in ("dones", "timeouts"):
            values = np.zeros_like(values)
        column[:] = torch.from_numpy(values) if isinstance(column, torch.Tensor) else values
    buffer.pos = count


def rate(agent: Any, batch_size: int, steps: int) -> float:
    """Updates/s over one call of `train`, which reads its figures back last."""
    start = time.perf_counter()
    agent.train(steps, batch_size)
    return steps / (time.perf_counter() - start)


def alternate(first: Any, second: Any, batch_size: int, options: Any) -> tuple[list[float], ...]:
    """Rates of two agents, in alternation, after a warm-up of both."""
    rates: tuple[list[float], list[float]] = ([], [])
    set_lanes(options.threads)
    for i in range(options.rounds + 1):
        for agent, measured in zip((first, second), rates, strict=True):
            is_ours = getattr(agent, "updates", "sb3") != "sb3"
            torch.set_num_threads(1 if is_ours else options.threads)
            value = rate(agent, batch_size, options.steps)
            if i:
                measured.append(value)
    return rates


def alone(side: str, network: str, options: Any) -> Callable[[], float]:
    """What measures an agent's rate, where it has the process for itself."""
    torch.set_num_threads(1 if side == "lanes" else options.threads)
    set_lanes(options.threads if side == "lanes" else 1)
    agent = (theirs if side == "SB3" else ours)(network, options.device)
    batch_size = NETWORKS[network][1]
    agent.train(options.steps, batch_size)

    def measure() -> float:
        agent.train(2, batch_size)
        return rate(agent, batch_size, options.steps)

    return measure


def ceiling(batch_size: int, width: int = 256) -> float:
    """The best rate of a float32 product of a batch and a layer, in FLOP/s, of both libraries."""
    x, weight = torch.randn(batch_size, width), torch.randn(width, width)

    def onednn() -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return result

    def best(multiply: Callable[[], Any], repeats: int = 500) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    seconds = min(best(onednn), best(lambda: functional.linear(x, weight)))
    return 2.0 * batch_size * width * width / seconds


def flops(network: str) -> float:
    """Floating-point operations of the products in one update, 4 actors and 12 critics a sample."""
    layers, batch_size, _ = NETWORKS[network]
    hidden = sum(a * b for a, b in pairwise(layers))
    actor = OBS * layers[0] + hidden + layers[-1] * 2 * ACT
    critic = (OBS + ACT) * layers[0] + hidden + layers[-1]
    return 2.0 * batch_size * (4 * actor + 12 * critic)


def measure_networks(options: Any) -> list[Row]:
    """Every network against SB3's `train`, and against the ceiling."""
    rows = []
    for network, (_, batch_size, _) in NETWORKS.items():
        if options.device != "cpu":
            pair = ours(network, options.device), theirs(network, options.device)
            rates = alternate(*pair, batch_size, options)
            rows.append(row(f"SAC {network}", "updates/s", *rates))
            continue
        with (
            apart(alone, "lanes", network, options) as ours_on_lanes,
            apart(alone, "SB3", network, options) as sb3,
            apart(alone, "threads", network, options) as ours_on_threads,
        ):
            sides = (ours_on_lanes, sb3, ours_on_threads)
            rounds = [[measure() for measure in sides] for _ in range(options.rounds)]
        mine, other, threads = map(list, zip(*rounds, strict=True))
        rows.append(row(f"SAC {network}", "updates/s", mine, other))
        torch.set_num_threads(options.threads)
        limit = ceiling(batch_size) / flops(network)
        rows.append(row("  of the ceiling", "updates/s", mine, [limit] * len(mine)))
        rows.append(row("  on torch's threads", "updates/s", threads, other))
    return rows


def measure_lanes(options: Any) -> list[Row]:
    """Networks side by side, as `clrl train` has them, against one after another."""
    torch.set_num_threads(1)
    rows = []
    for network, (_, batch_size, _) in NETWORKS.items():
        agent = ours(network, options.device)
        rates: dict[int, list[float]] = {options.threads: [], 1: []}
        for i in range(options.rounds + 1):
            for lanes, measured in rates.items():
                set_lanes(lanes)
                value = rate(agent, batch_size, options.steps)
                if i:
                    measured.append(value)
        title = f"on {options.threads} lanes over 1, {network}"
        rows.append(row(title, "updates/s", *rates.values()))
    return rows


def measure_graphs(options: Any) -> list[Row]:
    """On a GPU: CUDA graphs against the same kernels launched one by one, and products in TF32."""
    rows = []
    for network, (_, batch_size, _) in NETWORKS.items():
        pair = ours(network, options.device), ours(network, options.device, updates="eager")
        rows.append(row(f"graphs, {network}", "updates/s", *alternate(*pair, batch_size, options)))
        torch.set_float32_matmul_precision("high")
        mine, other = alternate(ours(network, options.device), pair[0], batch_size, options)
        torch.set_float32_matmul_precision("highest")
        rows.append(row(f"TF32, {network}", "updates/s", mine, other))
    return rows


def measure_protections(options: Any) -> list[Row]:
    """Every protection against the unprotected agent, with 1 and 2 earlier skills."""
    network = "4x256 layer norm b128" if options.layer_norm else "2x256 b256"
    batch_size = NETWORKS[network][1]
    rows = []
    for earlier in (1, 2):
        plain = ours(network, options.device, earlier + 1)
        for name, protect in PROTECTIONS.items():
            agent = ours(network, options.device, earlier + 1, protect)
            mine, other = alternate(agent, plain, batch_size, options)
            rows.append(row(f"{name}, {earlier} earlier", "updates/s", mine, other))
    return rows


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of networks and replay")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--steps", type=int, default=24, help="updates a measurement")
    parser.add_argument("--layer-norm", action="store_true", help="protect the network with it")


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    found = measure_networks(options)
    if options.device != "cpu":
        found += measure_graphs(options)
    elif options.threads > 1:
        found += measure_lanes(options)
    report([*found, *measure_protections(options)], options.json)
