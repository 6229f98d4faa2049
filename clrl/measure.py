"""Measures a run: rows of its matrix, its cost, and the result they make."""

import time
from contextlib import closing
from typing import Any

from clrl.config import versions
from clrl.eval.evaluator import Evaluator, Score
from clrl.eval.retention import Retention
from clrl.position import Position
from clrl.run import Run

EVAL_SEED = 1000  # of the episodes' starts, the same for every run


def evaluate_run(
    run: Run,
    *,
    episodes: int = 100,
    seed: int = EVAL_SEED,
    horizon: int | None = None,
    success_rule: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    quiet: bool = False,
) -> Retention:
    """Measure retention from a run's checkpoints, apart from its training.

    Args:
        run: What was trained.
        episodes: Per skill and checkpoint.
        seed: Of the episodes' starts.
        horizon: Steps of an episode, in place of the one it was trained with.
        success_rule: "any-step" or "last-step", likewise.
        device: Of the worlds, "cpu" or "cuda".
        threads: Of the physics, 0 for all cores; as the run was trained if none.
        quiet: Print nothing.

    Raises:
        ValueError: a checkpoint at the end of a skill is missing or broken.
    """
    start = time.perf_counter()
    trained = run
    run = Run(run.path, run.config, run.curriculum.under(horizon, success_rule))
    rows: list[list[Score]] = []
    finals = run.finished(measured=False)
    threads = run.config.threads if threads is None else threads
    evaluator = Evaluator(run.curriculum, episodes=episodes, threads=threads, device=device)
    with closing(evaluator):
        for path in finals:
            state = trained.read(path)
            agent = run.build(state["agent"])
            rows.append(measure_row(run, evaluator, agent, seed))
            if not quiet:
                pairs = zip(run.curriculum.names, rows[-1], strict=True)
                print(f"{path.name}:", *(f"{name} {score.rate:.0%}" for name, score in pairs))
    cost = measure_cost(agent) | Position.of(state["position"], run.curriculum, str(path)).cost
    cost["eval_seconds"] = time.perf_counter() - start
    successes = [[int(score.success.sum()) for score in row] for row in rows]
    returns = [[float(score.returns.mean()) for score in row] for row in rows]
    return make_retention(run, successes, returns, cost, episodes, seed, device)


def measure_row(run: Run, evaluator: Evaluator, agent: Any, seed: int) -> list[Score]:
    """Scores on every skill of a run."""
    names = evaluator.curriculum.names
    return evaluator.scores({name: performer(run, agent, name) for name in names}, seed=seed)


def performer(run: Run, agent: Any, name: str) -> Any:
    """The policy for a skill; one not begun is tried by the skill it is like, or the newest."""
    if name in agent.skills:
        return agent.for_skill(name)
    like = run.like(name)
    return agent.for_skill(like) if like in agent.skills else agent.newest()


def measure_cost(agent: Any) -> dict[str, float]:
    """What an agent took, but for seconds."""
    return {
        "env_steps": agent.num_timesteps,
        "updates": agent._n_updates,
        "parameters": sum(p.numel() for p in agent.policy.parameters()),
        "protection_bytes": agent.protection_bytes,
        "protection_seconds": agent.protection_seconds,
    }


def make_retention(
    run: Run,
    successes: list[list[int]],
    returns: list[list[float]],
    cost: dict[str, float],
    episodes: int,
    seed: int,
    device: str,
) -> Retention:
    """The result of counted episodes; the protocol and the rest come from the run."""
    config = run.config
    return Retention.measured(
        curriculum=run.curriculum.name,
        skills=run.curriculum.names,
        agent=config.agent,
        protections=config.methods,
        seed=config.seed,
        protocol={
            "episodes": episodes,
            **run.curriculum.protocol,
            "deterministic": True,
            "seed": seed,
            "device": device,
        },
        successes=successes,
        returns=returns,
        cost=cost,
        versions=versions(),
    )
