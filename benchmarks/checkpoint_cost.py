"""What a checkpoint costs: seconds, bytes, and its share of the time at the default interval.

The agent has all skills of a curriculum but one behind it and the last in hand, all protections
with full memories, and for SAC a full replay buffer: no checkpoint of such a run is larger. A
checkpoint at the end of a skill, which needs no replay buffer, is the last column.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from table import machine

from clrl import checkpoint
from clrl.agents import ReservoirReplay
from clrl.config import resolve
from clrl.envs import make_curriculum
from clrl.run import Run

PROTECT = ("ewc", "distill", "replay")


def laden(run: Run) -> tuple[Any, Any]:
    """An agent of a run in its last skill, with full memories, and that skill's environment."""
    agent = run.build()
    for name in run.curriculum.names:
        env: Any = run.curriculum.vec_env(name, run.config.worlds, threads=1)
        agent.begin_skill(name, env, 10**6)
        if run.config.agent == "sac":
            agent.learning_starts = 0
        agent.learn(1, reset_num_timesteps=False)
        _fill(agent)
        if name != run.curriculum.names[-1]:
            agent.end_skill()
    return agent, env


def _fill(agent: Any) -> None:
    """Fill the replay buffer and the reservoirs with what there is."""
    rows = agent.fresh()
    for protection in agent.protections:
        if isinstance(protection, ReservoirReplay):
            reservoir = protection._filling
            while reservoir is not None and reservoir.seen < reservoir.capacity:
                reservoir.add(rows, protection.generator)
    if (buffer := getattr(agent, "replay_buffer", None)) is not None:
        for name in ("observations", "next_observations", "actions", "rewards", "dones"):
            column = getattr(buffer, name)
            column[1:] = column[:1]
        buffer.timeouts[:] = 0.0
        buffer.full = True


def measure(name: str, agent_name: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Save several checkpoints as a training does, and one as at a skill's end."""
    curriculum = make_curriculum(name)
    config = resolve(curriculum.to_json(), agent_name, PROTECT, seed=0, device="cpu", options={})
    run = Run.create(folder / f"{name}-{agent_name}", config, curriculum)
    agent, env = laden(run)
    seconds = []
    for step in range(rounds):
        start = time.perf_counter()
        state = {"agent": agent.train_state(), "position": {}, "env": env.get_state()}
        run.save_checkpoint(step, state, {"final": False, "skills": list(agent.skills)})
        seconds.append(time.perf_counter() - start)
    run.save_checkpoint(
        rounds, {"agent": agent.train_state(experience=False)}, {"final": True, "skills": []}
    )
    sizes = [
        sum(file.stat().st_size for file in path.iterdir())
        for path in checkpoint.steps(run.checkpoints)
    ]
    return {
        "name": f"{name} {agent_name}",
        "seconds": statistics.median(seconds),
        "worst": max(seconds),
        "share": statistics.median(seconds) / config.checkpoint_seconds,
        "mb": sizes[-2] / 1e6,
        "mb_at_end": sizes[-1] / 1e6,
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--curricula", nargs="+", default=["arm6", "cw10"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as `clrl train` does
    print(f"{'':12}{'median s':>10}{'worst s':>10}{'of 30 s':>10}{'MB':>10}{'MB at end':>12}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.curricula:
            for agent in ("ppo", "sac"):
                r = measure(name, agent, options.rounds, Path(folder))
                rows.append(r)
                print(
                    f"{r['name']:12}{r['seconds']:10.3f}{r['worst']:10.3f}{r['share']:10.2%}"
                    f"{r['mb']:10.1f}{r['mb_at_end']:12.1f}"
                )
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
