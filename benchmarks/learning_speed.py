"""Seconds until SAC performs a skill: ContinualSAC beside stock SB3 SAC at its defaults.

Stock SAC has one environment: ours, or for Continual World's skills Meta-World's own. Both learn
on one thread and are evaluated by the same 100 episodes now and then; the first evaluation at 90
% ends the run. Seconds are processor seconds of learning (collecting and updating), without
evaluations, so that what else the machine does hardly counts. One call is one run and appends a
line of JSON to `--out`; `--table FILE ...` puts runs together.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from table import machine

from clrl.agents import make_agent
from clrl.config import PRESETS
from clrl.envs import make_curriculum
from clrl.eval import evaluate_skill

TARGET = 0.9


class Judge(BaseCallback):
    """Evaluates at set steps, keeps the time that learning took, stops at the target."""

    def __init__(self, score: Callable[[Any], float], every: int, max_seconds: float) -> None:
        super().__init__()
        self.curve: list[tuple[int, int, float, float]] = []
        self._score, self._every, self._max = score, every, max_seconds
        self._next, self._spent = every, 0.0

    def _on_training_start(self) -> None:
        self._start = time.process_time()

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        self._next += self._every
        self._spent += time.process_time() - self._start
        rate = self._score(self.model)
        self.curve.append((self.num_timesteps, int(self.model._n_updates), self._spent, rate))
        print(*self.curve[-1], flush=True)
        self._start = time.process_time()
        return rate < TARGET and self._spent < self._max


def stock(skill: str, seed: int, _: argparse.Namespace) -> Any:
    """SB3's SAC with its defaults on one environment: ours, or Meta-World's for its skills."""
    if skill.startswith("cw-"):
        from metaworld_oracle import MetaWorldEnv

        env: Any = Monitor(MetaWorldEnv(skill.removeprefix("cw-")))
    else:
        env = make_curriculum(skill).vec_env(_name(skill), 1, threads=1)
    return SAC("MlpPolicy", env, seed=seed, device="cpu")


def ours(skill: str, seed: int, chosen: argparse.Namespace) -> Any:
    """The preset of `clrl train --agent sac`, with what was chosen in its place."""
    curriculum = make_curriculum(skill)
    preset = PRESETS["sac"]
    options = dict(preset["options"])
    worlds = chosen.worlds or preset["worlds"]
    for name, value in (pair.split("=", 1) for pair in chosen.option):
        options[name] = json.loads(value)
    policy = dict(options["policy_kwargs"])
    if chosen.net:
        policy["net_arch"] = list(chosen.net)
    policy["layer_norm"] = chosen.layer_norm
    options["policy_kwargs"] = policy
    agent: Any = make_agent(
        "sac",
        curriculum.observation_space,
        curriculum.action_space,
        worlds=worlds,
        seed=seed,
        **options,
    )
    name = _name(skill)
    agent.begin_skill(name, curriculum.vec_env(name, worlds, seed=seed, threads=1, stagger=True))
    return agent


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Learn one skill."""
    torch.set_num_threads(1)
    curriculum = make_curriculum(chosen.skill)
    name = _name(chosen.skill)
    learner = {"stock": stock, "ours": ours}[chosen.learner](chosen.skill, chosen.seed, chosen)

    def score(model: Any) -> float:
        return evaluate_skill(model, curriculum, name, episodes=100, threads=1).rate

    judge = Judge(score, chosen.every, chosen.max_seconds)
    learner.learn(10**9, callback=judge)
    steps, updates, seconds, rate = judge.curve[-1]
    return {
        "label": chosen.label or chosen.learner,
        "skill": chosen.skill,
        "learner": chosen.learner,
        "seed": chosen.seed,
        "reached": rate >= TARGET,
        "steps": steps,
        "updates": updates,
        "seconds": seconds,
        "curve": judge.curve,
        "options": {k: v for k, v in vars(chosen).items() if k not in ("table", "out", "curve")},
        "machine": machine(),
    }


def read(files: list[str]) -> list[dict[str, Any]]:
    """All runs of some files."""
    return [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]


def plot(runs: list[dict[str, Any]], path: str) -> None:
    """Success over seconds of learning, a panel a skill, a colour a label and a line a seed."""
    from matplotlib.figure import Figure

    skills = sorted({r["skill"] for r in runs})
    labels = sorted({r["label"] for r in runs})
    figure = Figure(figsize=(10, 1.0 + 2.4 * -(-len(skills) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(skills) // 3), 3, sharey=True, squeeze=False).flat
    for axes, skill in zip(panels, skills, strict=False):
        for r in (r for r in runs if r["skill"] == skill):
            seconds, rate = zip(*((0.0, 0.0), *(point[2:] for point in r["curve"])), strict=True)
            colour = f"C{labels.index(r['label'])}"
            label = r["label"] if r["seed"] == 0 else None
            axes.plot(seconds, rate, color=colour, label=label, linewidth=1.2)
        axes.axhline(TARGET, color="0.6", linewidth=0.8, linestyle="--")
        axes.set(title=skill, xscale="symlog", xlabel="seconds of one core", xlim=(0, None))
    first, *_ = figure.axes
    first.set_ylabel("success")
    first.legend(frameon=False)
    for axes in figure.axes[len(skills) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=110)


def table(runs: list[dict[str, Any]]) -> None:
    """Median over seeds, by skill and label."""
    print("| skill | learner | seeds | reached 0.9 | steps | updates | seconds, each | median |")
    print("|---|---|---|---|---|---|---|---|")
    for skill in sorted({r["skill"] for r in runs}):
        for label in sorted({r["label"] for r in runs if r["skill"] == skill}):
            own = [r for r in runs if (r["skill"], r["label"]) == (skill, label)]
            middle = [median(r[key] for r in own) for key in ("steps", "updates", "seconds")]
            each = " ".join(f"{r['seconds']:.0f}{'' if r['reached'] else '+'}" for r in own)
            print(
                f"| {skill} | {label} | {len(own)} | {sum(r['reached'] for r in own)} "
                f"| {middle[0]:,.0f} | {middle[1]:,.0f} | {each} | {middle[2]:,.0f} |"
            )


def _name(skill: str) -> str:
    return make_curriculum(skill).names[0]


def main() -> None:
    """Run one, or put runs together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", nargs="+", metavar="FILE", help="put these runs together")
    parser.add_argument("--plot", metavar="PNG", help="with --table, draw them")
    parser.add_argument("--out", help="append the run to this file")
    parser.add_argument("--learner", choices=["ours", "stock"], default="ours")
    parser.add_argument("--label", help="names the variant in the table")
    parser.add_argument("--skill", default="arm-reach")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=4096, help="steps between evaluations")
    parser.add_argument("--max-seconds", type=float, default=1500.0)
    parser.add_argument("--worlds", type=int)
    parser.add_argument(
        "--option", nargs="+", default=[], metavar="NAME=JSON", help="of SAC, as gamma=0.99"
    )
    parser.add_argument("--net", type=int, nargs="+", help="widths of the hidden layers")
    parser.add_argument("--layer-norm", action="store_true")
    chosen = parser.parse_args()
    if chosen.table:
        runs = read(chosen.table)
        if chosen.plot:
            plot(runs, chosen.plot)
        return table(runs)
    result = json.dumps(run(chosen))
    if chosen.out:
        with Path(chosen.out).open("a") as file:
            file.write(result + "\n")
    return None


if __name__ == "__main__":
    main()
