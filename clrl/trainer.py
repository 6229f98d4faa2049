"""Learns a curriculum, skill after skill, and fills the retention matrix."""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from clrl import checkpoint, sealed
from clrl.agents.lanes import set_lanes
from clrl.compare import report
from clrl.divergence import DivergenceGuard
from clrl.envs.curriculum import Curriculum
from clrl.envs.side_by_side import SideBySide
from clrl.eval import atomic
from clrl.eval.evaluator import Evaluator
from clrl.eval.figure import plot
from clrl.importance import moved
from clrl.interrupt import Interrupted, Interruptible
from clrl.lock import lock
from clrl.measure import EVAL_SEED, make_retention, measure_cost, measure_row
from clrl.position import Position
from clrl.preparation import prepare
from clrl.progress import STEP, Progress, make_logger
from clrl.run import MISFITS, Run
from clrl.schedule import Stage, stages

_PROBES = 8  # looks at all skills so far while one is trained, for the learning curves
_PROBE_EPISODES = 32
_GROUPS = 8  # of worlds on a device, each at its own phase of an episode: a reset costs a forward
_SHARE = 0.02  # of the time that checkpoints may take, on a disk however slow


def train(
    curriculum: str | Path | Sequence[str] | Curriculum = "arm3",
    agent: str = "ppo",
    protect: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    joint: bool = False,
    seed: int = 0,
    steps_per_skill: int | None = None,
    horizon: int | None = None,
    success_rule: str | None = None,
    memory: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Train one agent through a curriculum and measure what it retains.

    Args:
        curriculum: A name, ids, a file or a `Curriculum`; see `make_curriculum`.
        agent: "ppo" or "sac".
        protect: Names of protections, or names with their options; None for the default, EWC.
        joint: Train all skills at once, on the sum of their budgets and without protections: the
            usual upper bound. Row i of the matrix is then measured after i equal shares of it.
        seed: Decides the networks, the worlds and every draw.
        steps_per_skill: Budget of every skill, in place of each skill's own.
        horizon: Control steps per episode of every skill, in place of each skill's own.
        success_rule: "any-step" or "last-step", likewise.
        memory: Give the policy an external memory, with this many observations of the episode
            beside the examples of earlier skills; 0 for the latter alone.
        out: The run's directory; `runs/CURRICULUM-AGENT-seedN` by default.
        device: "cpu"; "cuda", where networks and worlds live on a GPU; or "auto", the GPU if it is
            there and `worlds` are enough for it.
        quiet: Print nothing.
        options: `worlds`, `threads`, `episodes`, `keep_checkpoints`, `checkpoint_seconds`,
            `importance` (see `Config`), and arguments of the agent's class.

    Returns:
        The finished run.

    Raises:
        ValueError: something unknown or out of range; nothing is written then. Or, on the CPU, a
            skill's reward that is not finite; the last checkpoint is good.
        FileExistsError: `out` exists.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint was saved; a `KeyboardInterrupt`.
        OSError: the disk fails; earlier checkpoints are good.
        NumericalError: another number that is not finite; the last checkpoint is good.
    """
    run = prepare(
        curriculum,
        agent,
        protect,
        joint=joint,
        seed=seed,
        steps_per_skill=steps_per_skill,
        horizon=horizon,
        success_rule=success_rule,
        memory=memory,
        out=out,
        device=device,
        **options,
    )
    made = Run.create(run.path, run.config, run.curriculum)
    try:
        return _finish(made, quiet)
    except OSError:
        raise
    except Exception:
        if not checkpoint.steps(made.checkpoints):  # nothing to go on from
            sealed.remove(made.path)
        raise


def resume(
    path: str | PathLike[str],
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
        BlockingIOError: another process trains there.
        ValueError: there is no run, it is broken, or versions differ.
    """
    return _finish(Run.open(path, curriculum), quiet, allow_versions)


def _finish(run: Run, quiet: bool, allow_versions: bool = False) -> Run:
    try:
        with lock(run.path), Interruptible() as interruptible:
            return _Trainer(run, quiet, interruptible, allow_versions).finish()
    finally:
        gc.collect()  # an agent and its optimizers hold each other; the next run needs the memory


class _Trainer:
    """Drives a run from where it stands to its end."""

    def __init__(
        self, run: Run, quiet: bool, interruptible: Interruptible, allow_versions: bool
    ) -> None:
        torch.set_num_threads(1)  # networks are small; what is more than one goes beside another
        set_lanes(run.config.threads)
        self.run = run
        self.curriculum = run.curriculum
        self.stages = stages(run.config, run.curriculum)
        self.quiet = quiet
        self.interruptible = interruptible
        self.position = Position()
        run.clean()
        newest = checkpoint.recover(run.checkpoints)
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
        self._saved_step = int(newest.name) if newest else -1
        self._wait = run.config.checkpoint_seconds
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
                self._stop_if_asked()
            while self.position.skill < len(self.stages):
                self._learn_stage(progress)

    def _learn_stage(self, progress: Progress) -> None:
        at = self.position
        stage = self.stages[at.skill]
        env = self._env(stage)
        if at.begun:
            self.agent.set_env(env, force_reset=False)
            self._restore(env)
        else:
            at.begun = True
            at.start = self.agent.num_timesteps if stage.start is None else stage.start
            self.agent.set_env(env)
            for name in stage.begun:
                self.agent.begin_skill(name, steps=stage.budget, like=self.run.like(name))
        end = at.start + stage.steps
        guards = self._guards(stage, env)
        while self.agent.num_timesteps < end:
            watch = progress.watch(stage.name, lambda: self._pause(env))
            self._learn_chunk(end, stage.steps, [*guards, watch])
            self._probe(progress)
        self.agent.end_skill()
        cost = measure_cost(self.agent)
        self._log(
            {f"plasticity/{name}": x for name, x in self.agent.plasticity().items()}
            | {f"cost/{name}": cost[name] for name in ("parameters", "protection_bytes")}
        )
        at.skill, at.begun = at.skill + 1, False
        at.ends.append(self.agent.num_timesteps)
        self._evaluate()
        self._checkpoint(final=True)
        env.close()
        if at.skill < len(self.stages):
            self._stop_if_asked()

    def _env(self, stage: Stage) -> Any:
        """The stage's worlds, which start from the seed and the stage alone."""
        config = self.run.config
        seed = 1_000_003 * (config.seed * len(self.stages) + self.position.skill + 1)
        parts = [
            self.curriculum.vec_env(
                name,
                worlds,
                seed=seed + sum(stage.worlds[:i]),
                threads=config.threads,
                stagger=True if config.device == "cpu" else _GROUPS,
                device=config.device,
            )
            for i, (name, worlds) in enumerate(zip(stage.skills, stage.worlds, strict=True))
        ]
        return SideBySide(parts) if config.joint else parts[0]

    def _guards(self, stage: Stage, env: Any) -> list[DivergenceGuard]:
        """One for the worlds of each skill."""
        parts = env.parts if self.run.config.joint else [env]
        folder, counts = self.run.path / "diverged", self.position.diverged
        pairs = zip(stage.skills, parts, strict=True)
        return [DivergenceGuard(folder, name, part, counts) for name, part in pairs]

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
        begun = dict.fromkeys(self.agent.skills, self.agent)
        scores = self._prober.scores(begun, seed=EVAL_SEED // 2)
        for name, score in zip(begun, scores, strict=True):
            curve = self.position.curves.setdefault(name, [])
            curve.append([self.agent.num_timesteps, score.rate])
        if self.run.config.importance == "measured":
            self._weigh()
        self._log(
            {f"success/{name}": self.position.curves[name][-1][1] for name in self.agent.skills}
        )
        progress.probed(
            self.agent.num_timesteps, {name: c[-1][1] for name, c in self.position.curves.items()}
        )
        self.position.cost["eval_seconds"] += time.perf_counter() - start

    def _weigh(self) -> None:
        """Let what each earlier skill has lost since it ended move its importance."""
        importance = self.agent.skill_importance
        for i, end in enumerate(self.position.ends):
            curve = self.position.curves[self.curriculum.names[i]]
            ended = [rate for step, rate in curve if step <= end] or [curve[0][1]]
            importance[i] = moved(importance[i], ended[-1] - curve[-1][1])
        earlier = zip(self.agent.skills[:-1], importance, strict=False)
        self._log({f"importance/{name}": weight for name, weight in earlier})

    def _log(self, figures: dict[str, float]) -> None:
        """Write a row; a resumed run keeps those that say their step."""
        step = self.agent.num_timesteps
        for name, value in figures.items():
            self.agent.logger.record(name, value)
        self.agent.logger.record(STEP, step, exclude="tensorboard")
        self.agent.logger.dump(step)

    def _evaluate(self) -> None:
        """Append a row to the matrix."""
        start = time.perf_counter()
        row = measure_row(self.run, self._evaluator, self.agent, EVAL_SEED)
        self.position.successes.append([int(score.success.sum()) for score in row])
        self.position.returns.append([float(score.returns.mean()) for score in row])
        self.position.cost["eval_seconds"] += time.perf_counter() - start

    def _pause(self, env: Any) -> None:
        """Between two rollouts: save if it is time, and stop if that is wished."""
        asked = self.interruptible.signum is not None
        due = asked or time.perf_counter() - self._saved >= self._wait
        if due and self.agent.num_timesteps > self._saved_step:
            self._checkpoint(final=False, env=env)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if (signum := self.interruptible.signum) is not None:
            raise Interrupted(
                signum,
                f"stopped and saved at step {self._saved_step}; "
                f"go on with `clrl resume {self.run.path}`",
            )

    def _starts_afresh(self) -> bool:
        """Whether a stage that begins here needs no experience, or none does."""
        following = self.stages[self.position.skill : self.position.skill + 1]
        return all(stage.begun for stage in following)

    def _checkpoint(self, final: bool, env: Any = None) -> None:
        at, start = self.position, time.perf_counter()
        at.cost["wall_seconds"] = self._offset + start - self._clock
        state = {
            "agent": self.agent.train_state(experience=not (final and self._starts_afresh())),
            "position": asdict(at),
            "env": env.get_state() if env is not None else None,
        }
        info = {"final": final, "skills": list(self.agent.skills)}
        self.run.save_checkpoint(self.agent.num_timesteps, state, info)
        self._saved, self._saved_step = time.perf_counter(), self.agent.num_timesteps
        if least := self.run.config.checkpoint_seconds:
            self._wait = max(least, (self._saved - start) / _SHARE)

    def _conclude(self) -> None:
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
        ends = [] if self.run.config.joint else at.ends  # no part of it belongs to one skill
        plot(result, curves, self.run.path / "retention.png", ends=ends or None)
        page = report(self.run, result, curves, ends)
        atomic.replace(self.run.path / "report.html", page.encode())
        result.save(self.run.path / "retention.json")
