"""Control steps/s of each skill, with observation, reward and resets.

`--suite arm`: over bare physics, the ceiling: `mujoco.batch` stepping the same model with the same
substeps and the same controls, without looking at anything. Episodes start together, as `vec_env`
and `make_vec` do by default, so that one step in a hundred resets every world.

`--suite cw10`: over Meta-World's own environments in Gymnasium's Sync- and AsyncVectorEnv; and what
the bare physics would be over the former, which nothing around MuJoCo's step can exceed.
"""

import argparse
import time
from functools import partial
from typing import Any

import mujoco
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from metaworld_oracle import MetaWorldEnv
from mujoco import batch
from table import Row, arguments, report, row, suite

from clrl.envs import make_skill
from clrl.envs.episodes import Episodes
from clrl.envs.skill import Skill


def against_meta_world(name: str, n: int, rounds: int, threads: int, peers: int) -> list[Row]:
    """Alternate an episode in each of our worlds with one in each of Meta-World's."""
    torch.set_num_threads(1)
    skill = make_skill(name)
    assert isinstance(skill, Skill)
    makers = [partial(MetaWorldEnv, name.removeprefix("cw-"))] * peers
    envs: dict[str, Any] = {
        "sync": SyncVectorEnv(makers),
        "async": AsyncVectorEnv(makers, context="spawn"),
    }
    ours = skill.vec_env(n, seed=0, threads=threads)
    ours.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (skill.horizon, n, 4)).astype(np.float32)
    controls = record(skill, n, actions)
    mine: list[float] = []
    alone: list[float] = []
    rates: dict[str, list[float]] = {kind: [] for kind in envs}
    for _ in range(rounds):
        mine.append(n * skill.horizon / _seconds(ours.step, actions))
        alone.append(n * skill.horizon / bare(skill, n, controls, threads))
        for kind, env in envs.items():
            env.reset(seed=0)
            rates[kind].append(peers * skill.horizon / _seconds(env.step, actions[:, :peers]))
    for env in envs.values():
        env.close()
    rows = [row(f"{name} x {n} over {kind}", "steps/s", mine, rates[kind]) for kind in envs]
    return [*rows, row("  bare physics over sync", "steps/s", alone, rates["sync"])]


def _seconds(step: Any, actions: Any) -> float:
    start = time.perf_counter()
    for action in actions:
        step(action)
    return time.perf_counter() - start


def measure(name: str, n: int, rounds: int, threads: int) -> Row:
    """Alternate an episode of ours with the same physics alone."""
    skill = make_skill(name)
    assert isinstance(skill, Skill)
    torch.set_num_threads(1)
    env = skill.vec_env(n, seed=0, threads=threads)
    env.reset()
    generator = torch.Generator().manual_seed(0)
    shape = (skill.horizon, n, *skill.action_space.shape)
    actions = (2 * torch.rand(shape, generator=generator) - 1).numpy()
    controls = record(skill, n, actions)
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        for action in actions:
            env.step(action)
        ours.append(n * skill.horizon / (time.perf_counter() - start))
        theirs.append(n * skill.horizon / bare(skill, n, controls, threads))
    return row(f"{name} x {n}", "steps/s", ours, theirs)


def record(skill: Skill, n: int, actions: Any) -> list[dict[str, Any]]:
    """What our skill writes to move the robot by these actions, step by step."""
    driven = ["ctrl", *(["mocap_pos"] if skill.model.nmocap else [])]
    episodes = Episodes(skill, n)
    episodes.seed(0)
    episodes.reset()
    controls: list[dict[str, Any]] = []
    for action in torch.as_tensor(actions):
        skill.act(episodes.world, action)
        controls.append({name: episodes.world.field(name).numpy().copy() for name in driven})
        episodes.world.step(skill.substeps)
    return controls


def bare(skill: Skill, n: int, controls: list[dict[str, Any]], threads: int) -> float:
    """Seconds of the physics alone."""
    worlds = batch.Batch(skill.model, n, threads, persistent=True)
    worlds.state[:] = start_state(skill, n)[:, : worlds.state.shape[1]]
    fields = {name: worlds.bind(name) for name in controls[0]}
    start = time.perf_counter()
    for control in controls:
        for name, values in control.items():
            fields[name][:] = values
        worlds.step(nstep=skill.substeps, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
    return time.perf_counter() - start


def start_state(skill: Skill, n: int) -> Any:
    """Where our episodes start."""
    episodes = Episodes(skill, n)
    episodes.seed(0)
    episodes.reset()
    return episodes.world.state().numpy()


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--suite", choices=["arm", "cw10"], default="arm")
    parser.add_argument("--worlds", type=int, nargs="+", help="64 and 256; 64 for cw10")
    parser.add_argument("--peers", type=int, default=4, help="environments of Meta-World's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores")


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    rows: list[Row] = []
    sizes = options.worlds or ([64] if options.suite == "cw10" else [64, 256])
    for n in sizes:
        for name in suite(options.suite):
            if options.suite == "arm":
                rows.append(measure(name, n, options.rounds, options.threads))
            else:
                rows += against_meta_world(name, n, options.rounds, options.threads, options.peers)
    report(rows, options.json)
