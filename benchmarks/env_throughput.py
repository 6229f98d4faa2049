"""Control steps/s of each arm skill, observation, reward and resets included, over bare physics.

`theirs` is the ceiling: `mujoco.batch` stepping the same model with the same substeps and the same
controls, without looking at anything. Episodes start together, as `vec_env` and `make_vec` do by
default, so that one step in a hundred resets every world.
"""

import argparse
import time
from typing import Any

import mujoco
import torch
from mujoco import batch
from table import Row, arguments, report, row

from clrl.envs import SKILLS, make_skill
from clrl.envs.episodes import Episodes
from clrl.envs.skill import Skill


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


def record(skill: Skill, n: int, actions: Any) -> list[Any]:
    """The controls that our skill writes for these actions, step by step."""
    episodes = Episodes(skill, n)
    episodes.seed(0)
    episodes.reset()
    controls: list[Any] = []
    for action in torch.as_tensor(actions):
        skill.act(episodes.world, action)
        controls.append(episodes.world.field("ctrl").numpy().copy())
        episodes.world.step(skill.substeps)
    return controls


def bare(skill: Skill, n: int, controls: list[Any], threads: int) -> float:
    """Seconds of the physics alone."""
    worlds = batch.Batch(skill.model, n, threads, persistent=True)
    worlds.state[:] = start_state(skill, n)
    ctrl = worlds.bind("ctrl")
    start = time.perf_counter()
    for control in controls:
        ctrl[:] = control
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
    parser.add_argument("--worlds", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores")


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    rows = [
        measure(name, n, options.rounds, options.threads) for n in options.worlds for name in SKILLS
    ]
    report(rows, options.json)
