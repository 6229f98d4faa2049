"""What protections cost while the number of skills grows: time of an update, bytes, parameters.

Every method's agent learns one small skill after another, enough of each to fill its memory. In
the 3rd, 6th, 12th and 20th its updates (a minibatch of PPO, a gradient step of SAC) are timed in
alternation with those of an unprotected agent that learned as many: `ours` and `theirs` are
updates/s, `over` what an update takes beyond the unprotected one's.
"""

import argparse
import json
import time
from statistics import median
from typing import Any

import torch
from stable_baselines3.common.logger import configure as configure_logger
from table import Row, arguments, machine, row

from clrl.agents import PROTECTIONS, make_agent
from clrl.config import PRESETS
from clrl.envs import make_curriculum

AT = (3, 6, 12, 20)
STEPS = 8192  # of each skill: two rollouts of PPO, twice what distillation stores
REFUSED = {"ppo": {"clonex", "perfect"}, "sac": set[str]()}
OPTIONS: dict[str, dict[str, Any]] = {
    "packnet": {"skills": AT[-1]},
    "compress": {"steps": 1},  # a skill's end, which is not timed
    "replay": {"tail": 1.0},  # of so few steps a quarter does not fill its share
    "clear": {"tail": 1.0},
}


class Learner:
    """An agent with one method that takes on skill after skill."""

    def __init__(self, kind: str, method: str | None, env: Any) -> None:
        preset = PRESETS[kind]
        protect = {method: OPTIONS.get(method, {})} if method else None
        self.name, self._kind, self._env = method, kind, env
        self.agent: Any = make_agent(
            kind,
            env.observation_space,
            env.action_space,
            worlds=env.num_envs,
            protect=protect,
            **preset["options"],
        )
        self.agent.set_logger(configure_logger(None, []))

    def learn_one_more(self) -> None:
        """End the skill that is being learned, if any, and learn another up to its end."""
        if self.agent.skills:
            self.agent.end_skill()
        self.agent.begin_skill(f"skill {len(self.agent.skills)}", self._env, STEPS)
        self.agent.learn(STEPS, reset_num_timesteps=False)

    def rate(self, sweeps: int) -> float:
        """Updates/s on the experience that is there."""
        start = time.perf_counter()
        if self._kind == "sac":
            self.agent.train(32 * sweeps, self.agent.batch_size)
            updates = 32 * sweeps
        else:
            for _ in range(sweeps):
                self.agent.train()
            rows = self.agent.n_steps * self._env.num_envs
            updates = sweeps * self.agent.n_epochs * -(-rows // self.agent.batch_size)
        return updates / (time.perf_counter() - start)


def measure(kind: str, methods: list[str], options: Any) -> list[Row]:
    """All methods of one agent, at each number of skills."""
    curriculum = make_curriculum("arm-reach")
    env = curriculum.vec_env(
        "reach", PRESETS[kind]["worlds"], threads=options.threads, stagger=True
    )
    plain, *learners = [Learner(kind, method, env) for method in (None, *methods)]
    rows: list[Row] = []
    for count in range(1, options.skills + 1):
        for learner in (plain, *learners):
            learner.learn_one_more()
        if count in AT or count == options.skills:
            for learner in learners:
                rows.append(compared(kind, learner, plain, count, options.rounds))
                print(text(rows[-1]), flush=True)
    return rows


def compared(kind: str, learner: Learner, plain: Learner, count: int, rounds: int) -> Row:
    """One method against the unprotected agent, in alternation after a warm-up."""
    pairs = [(learner.rate(1), plain.rate(1)) for _ in range(rounds + 1)][1:]
    mine, other = ([pair[i] for pair in pairs] for i in (0, 1))
    agent = learner.agent
    return row(f"{kind} {learner.name}, {count} skills", "updates/s", mine, other) | {
        "over": median(b / a - 1.0 for a, b in pairs),
        "bytes": agent.protection_bytes,
        "parameters": sum(p.numel() for p in agent.policy.parameters()),
    }


def text(r: Row) -> str:
    """A row for people."""
    return (
        f"{r['name']:28}{r['ours']:10,.0f}{r['theirs']:10,.0f}{r['over']:+9.0%}"
        f"{r['bytes']:14,}{r['parameters']:12,}"
    )


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--agents", nargs="+", default=["ppo", "sac"])
    parser.add_argument("--methods", nargs="+", default=list(PROTECTIONS))
    parser.add_argument("--skills", type=int, default=AT[-1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)


if __name__ == "__main__":
    options = arguments(__doc__ or "", configure)
    torch.set_num_threads(1)
    print(f"{'':28}{'ours':>10}{'theirs':>10}{'over':>9}{'bytes kept':>14}{'parameters':>12}")
    rows = []
    for kind in options.agents:
        chosen = [name for name in options.methods if name not in REFUSED[kind]]
        rows += measure(kind, chosen, options)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}))
