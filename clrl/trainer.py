"""Learns a curriculum, skill after skill, and fills the retention matrix."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clrl import checkpoint
from clrl.config import resolve
from clrl.divergence import DivergenceGuard
from clrl.envs.curriculum import Curriculum, make_curriculum
from clrl.envs.untrusted import shown
from clrl.eval.evaluator import Evaluator
from clrl.measure import EVAL_SEED, make_retention, measure_cost, measure_row
from clrl.position import Position
from clrl.progress import Progress, make_logger
from clrl.run import MISFITS, Run

_PROBES = 8  # looks at all skills so far while one is trained, for the learning curves
_PROBE_EPISODES = 32
_GROUPS = 8  # of worlds on a device, each at its own phase of an episode: a reset costs a forward


def train(
    curriculum: str | Path | Sequence[str] | Curriculum = "arm3",
    agent: str = "ppo",
    protect: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    seed: int = 0,
    steps_per_skill: int | None = None,
    horizon: int | None = None,
    success_rule: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Train one agent through a curriculum and measure what it retains.

    Args:
        curriculum: A name, ids, a file or a `Curriculum`; see `make_curriculum`.
        agent: "ppo" or "sac".
        protect: Names of protections, or names with their options; None for the default three.
        seed: Decides the networks, the worlds and every draw.
        steps_per_skill: Budget of every skill, in place of each skill's own.
        horizon: Control steps per episode of every skill, in place of each skill's own.
        success_rule: "any-step" or "last-step", likewise.
        out: The run's directory; `runs/CURRICULUM-AGENT-seedN` by default.
        device: "cpu"; "cuda", where networks and worlds live on a GPU; or "auto", the GPU if it is
            there and `worlds` are enough for it.
        quiet: Print nothing.
        options: `worlds`, `threads`, `episodes`, and arguments of the agent's class.

    Returns:
        The finished run.

    Raises:
        ValueError: something unknown or out of range; nothing is written then.
        FileExistsError: `out` exists.
        NumericalError: a number that is not finite; the last checkpoint is good.
    """
    whole = isinstance(steps_per_skill, int) and not isinstance(steps_per_skill, bool)
    if steps_per_skill is not None and not (whole and 1 <= steps_per_skill <= 10**12):
        raise ValueError(f"steps per skill must be in [1, 10^12], got {shown(steps_per_skill)}")
    made = make_curriculum(curriculum).under(horizon, success_rule)
    if steps_per_skill is not None:
        made = Curriculum(made.name, made.skills, steps_per_skill)
    config = resolve(
        made.to_json(), agent, protect, seed=seed, device=device, options=dict(options)
    )
    path = (
        Path(out)
        if out is not None
        else Path("runs") / f"{made.name}-{agent}-seed{seed}".replace("/", "-")
    )
    Run(path, config, made).build()  # options that do not fit must not leave a directory
    return _Trainer(Run.create(path, config, made), quiet).finish()


def resume(
    path: str | Path,
    curriculum: Curriculum | None = None,
    *,
    quiet: bool = False,
    allow_versions: bool = False,
) -> Run:
    """Go on with a run exactly where its newest valid checkpoint stands.

    Args:
        path: The run's directory.
        curriculum: Its curriculum, where its skills cannot be built from their ids.
        quiet: Print nothing.
        allow_versions: Go on although MuJoCo, torch or others have other versions than before, by
            which the run comes to differ from an undisturbed one.

    Raises:
        ValueError: there is no run, it is broken, or versions differ.
    """
    return _Trainer(Run.open(path, curriculum), quiet, allow_versions).finish()


class _Trainer:
    """Drives a run from where it stands to its end."""

    def __init__(self, run: Run, quiet: bool, allow_versions: bool = False) -> None:
        torch.set_num_threads(1)  # networks are small; the cores belong to the physics
        self.run = run
        self.curriculum = run.curriculum
        self.quiet = quiet
        self.position = Position()
        checkpoint.clean(run.checkpoints)
        newest = checkpoint.newest_valid(run.checkpoints)
        if newest is None and checkpoint.steps(run.checkpoints):
            raise ValueError(f"{run.path} has no valid checkpoint left; train anew")
        state = run.read(newest, exact=not allow_versions) if newest else None
        self.agent = run.build(state["agent"] if state else None)
        if state:
            self.position = Position.of(state.get("position"), self.curriculum, str(run.path))
        self._env_state = state.get("env") if state else None
        self.agent.set_logger(make_logger(run.path, self.agent.num_timesteps))
        where: Any = {"threads": run.config.threads, "device": run.config.device}
        self._prober = Evaluator(self.curriculum, episodes=_PROBE_EPISODES, **where)
        self._evaluator = Evaluator(self.curriculum, episodes=run.config.episodes, **where)
        self._clock = time.perf_counter()
        self._saved = self._clock
        self._offset = self.position.cost["wall_seconds"]

    def finish(self) -> Run:
        """Train what is left, and write the result."""
        try:
            self._learn()
        finally:
            self.agent.logger.close()
            self._prober.close()
            self._evaluator.close()
        self._conclude()
        return self.run

    def _learn(self) -> None:
        total = sum(self.curriculum.steps)
        with Progress(total, self.agent.num_timesteps, self.quiet) as progress:
            if not self.position.successes:
                self._evaluate()
                self._checkpoint(final=True)
            while self.position.skill < len(self.curriculum):
                self._learn_skill(progress)

    def _learn_skill(self, progress: Progress) -> None:
        at = self.position
        index = at.skill
        name, budget = self.curriculum.names[index], self.curriculum.steps[index]
        seed = 1_000_003 * (self.run.config.seed * len(self.curriculum) + index + 1)
        config = self.run.config
        env = self.curriculum.vec_env(
            name,
            config.worlds,
            seed=seed,
            threads=config.threads,
            stagger=True if config.device == "cpu" else _GROUPS,
            device=config.device,
        )
        if at.begun:
            self.agent.set_env(env, force_reset=False)
            self._restore(env)
        else:
            at.begun, at.start = True, self.agent.num_timesteps
            self.agent.begin_skill(name, env, budget)
        end = at.start + budget
        guard = DivergenceGuard(self.run.path / "diverged", name, env, at.diverged)
        while self.agent.num_timesteps < end:
            self._learn_chunk(end, budget, [guard, progress.watch(name)])
            self._probe(progress)
            if self.agent.num_timesteps < end:
                self._checkpoint_if_due(env)
        self.agent.end_skill()
        at.skill, at.begun = index + 1, False
        at.ends.append(self.agent.num_timesteps)
        self._evaluate()
        self._checkpoint(final=True)
        env.close()

    def _restore(self, env: Any) -> None:
        try:
            env.set_state(self._env_state)
        except MISFITS as error:
            raise ValueError(
                f"{self.run.path}: the worlds of its checkpoint do not fit: {error}"
            ) from error

    def _learn_chunk(self, end: int, budget: int, callback: Any) -> None:
        """Train to the next probe; an agent stops at the first whole rollout past it."""
        done = self.agent.num_timesteps - (end - budget)
        probe = budget // _PROBES + 1
        target = min(budget, (done // probe + 1) * probe)
        start = time.perf_counter()
        self.agent.learn(target - done, callback=callback, reset_num_timesteps=False)
        self.position.cost["train_seconds"] += time.perf_counter() - start

    def _probe(self, progress: Progress) -> None:
        """Look at every skill begun so far; only the learning curves know."""
        start = time.perf_counter()
        for name in self.agent.skills:
            score = self._prober.score(self.agent, name, seed=EVAL_SEED // 2)
            curve = self.position.curves.setdefault(name, [])
            curve.append([self.agent.num_timesteps, score.rate])
            self.agent.logger.record(f"success/{name}", score.rate)
        self.agent.logger.dump(self.agent.num_timesteps)
        progress.probed(
            self.agent.num_timesteps, {name: c[-1][1] for name, c in self.position.curves.items()}
        )
        self.position.cost["eval_seconds"] += time.perf_counter() - start

    def _evaluate(self) -> None:
        """Append a row to the matrix."""
        start = time.perf_counter()
        row = measure_row(self._evaluator, self.agent, EVAL_SEED)
        self.position.successes.append([int(score.success.sum()) for score in row])
        self.position.returns.append([float(score.returns.mean()) for score in row])
        self.position.cost["eval_seconds"] += time.perf_counter() - start

    def _checkpoint_if_due(self, env: Any) -> None:
        if time.perf_counter() - self._saved > self.run.checkpoint_seconds:
            self._checkpoint(final=False, env=env)

    def _checkpoint(self, final: bool, env: Any = None) -> None:
        at = self.position
        at.cost["wall_seconds"] = self._offset + time.perf_counter() - self._clock
        state = {
            "agent": self.agent.train_state(),
            "position": asdict(at),
            "env": env.get_state() if env is not None else None,
        }
        info = {"final": final, "skills": list(self.agent.skills)}
        self.run.save_checkpoint(self.agent.num_timesteps, state, info)
        self._saved = time.perf_counter()

    def _conclude(self) -> None:
        from clrl.eval.figure import plot

        at = self.position
        result = make_retention(
            self.run,
            at.successes,
            at.returns,
            {**measure_cost(self.agent), **at.cost},
            self.run.config.episodes,
            EVAL_SEED,
            self.run.config.device,
        )
        curves = {name: [(int(x), y) for x, y in c] for name, c in at.curves.items()}
        plot(result, curves, self.run.path / "retention.png", ends=at.ends)
        result.save(self.run.path / "retention.json")
