"""What a user imports: `clrl.load` and `clrl.evaluate`."""

from os import PathLike
from typing import Any

from clrl.envs.curriculum import Curriculum
from clrl.eval.retention import Retention
from clrl.run import Run

_BOUNDS = {"episodes": (1, 10**6), "seed": (0, 2**31), "threads": (0, 2**10)}


def load(path: str | PathLike[str], curriculum: Curriculum | None = None) -> Any:
    """The agent of a run as its newest checkpoint has it.

    Args:
        path: The run's directory.
        curriculum: Its curriculum, where its skills cannot be built from their ids.

    Returns:
        A `ContinualPPO` or `ContinualSAC`; `agent.act(observation, skill="push")` acts.

    Raises:
        ValueError: there is no run, or no checkpoint that can be read.
    """
    return Run.open(path, curriculum).agent()


def evaluate(
    path: str | PathLike[str],
    *,
    episodes: int = 100,
    seed: int = 1000,
    horizon: int | None = None,
    success_rule: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = True,
) -> Retention:
    """Measure a finished run's retention anew, from its checkpoints.

    Args:
        path: The run's directory.
        episodes: Per skill and checkpoint, >= 1.
        seed: Of the episodes' starts.
        horizon: Steps of an episode, in place of the one it was trained with.
        success_rule: "any-step" or "last-step", likewise.
        device: "cpu", "cuda", or "auto", a GPU if it is there and the episodes are enough for it.
        threads: Of the physics, 0 for all cores; as the run was trained if none.
        quiet: Print nothing.

    Raises:
        ValueError: there is no run, a checkpoint is missing or broken, something is out of range,
            or there is no GPU.
    """
    from clrl.config import resolve_device
    from clrl.measure import evaluate_run

    given = {"episodes": episodes, "seed": seed, "threads": 0 if threads is None else threads}
    for name, value in given.items():
        least, most = _BOUNDS[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and least <= value <= most):
            raise ValueError(f"{name} must be a whole number in [{least}, {most}], got {value!r}")
    return evaluate_run(
        Run.open(path),
        episodes=episodes,
        seed=seed,
        horizon=horizon,
        success_rule=success_rule,
        device=resolve_device(device, episodes),
        threads=threads,
        quiet=quiet,
    )
