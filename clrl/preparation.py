"""Makes what a training is asked for into a run, before anything is written."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clrl.agents.catalog import takes
from clrl.config import resolve
from clrl.envs.curriculum import Curriculum, make_curriculum
from clrl.envs.untrusted import shown
from clrl.run import Run
from clrl.schedule import stages

_LOG = logging.getLogger(__name__)


def prepare(
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
    **options: Any,
) -> Run:
    """A run that is not on the disk yet, of which everything asked for is known to fit.

    `Run.create` writes it, and `resume` trains it from there as `train` does, whose arguments and
    errors these are, see `clrl.train`.
    """
    whole = isinstance(steps_per_skill, int) and not isinstance(steps_per_skill, bool)
    if steps_per_skill is not None and not (whole and 1 <= steps_per_skill <= 10**12):
        raise ValueError(
            f"steps per skill must be a whole number in [1, 10^12], got {shown(steps_per_skill)}"
        )
    made = make_curriculum(curriculum).under(horizon, success_rule)
    if memory is not None and memory < 0:
        raise ValueError(f"memory must be >= 0, got {memory}")
    if memory and joint:
        raise ValueError("joint training has no external memory; leave memory out")
    if memory is not None:
        made = _recalling(made, memory)
        policy = dict(options.get("policy_kwargs") or {})
        policy["memory"] = {**policy.get("memory", {}), "rows": memory}
        options["policy_kwargs"] = policy
    if steps_per_skill is not None:
        made = Curriculum(made.name, made.skills, steps_per_skill)
    config = resolve(
        made.to_json(), agent, protect, joint=joint, seed=seed, device=device, options=dict(options)
    )
    for name, chosen in config.protect.items():
        if "skills" not in chosen and takes(name, "skills"):
            chosen["skills"] = len(made)  # known here, so that nobody has to count
    method = f"{agent}-joint" if joint else agent
    path = Path(out or Path("runs") / folder_name(f"{made.name}-{method}-seed{seed}"))
    stages(config, made)
    run = Run(path, config, made)
    check(run, run.build())  # options that do not fit must not leave a directory
    return run


def check(run: Run, agent: Any) -> None:
    """What can be told once there is an agent: ValueError, or a warning."""
    count = len(run.curriculum)
    if run.config.joint:  # each row of the matrix needs a rollout of its own
        steps = agent.train_freq.frequency if agent.off_policy else agent.n_steps
        rollout = steps * run.config.worlds
        if sum(run.curriculum.steps) < rollout * count:
            raise ValueError(
                f"joint training takes {rollout} steps a rollout, and as many for each of {count} "
                "skills at least; give more steps per skill, or fewer worlds"
            )
    if agent.off_policy:
        least = sum(run.curriculum.steps) if run.config.joint else min(run.curriculum.steps)
        if agent.learning_starts >= least:
            _LOG.warning(
                "clrl: nothing is learned in %d steps, of which learning_starts=%d only explore",
                least,
                agent.learning_starts,
            )
    for protection in agent.protections:
        if trouble := protection.trouble():
            raise ValueError(f"protection {type(protection).__name__}: {trouble}")
    if run.config.importance != "equal" and not any(p.weighs for p in agent.protections):
        chosen = ", ".join(run.config.protect) or "no protection"
        raise ValueError(
            f"importance does nothing with {chosen}, which weighs no skill; add a protection that "
            "does, such as ewc, or leave importance out"
        )


def folder_name(name: str) -> str:
    """A name without what a shell or a file system would take for something else."""
    return re.sub(r"[^\w.+-]+", "+", name)


def _recalling(curriculum: Curriculum, rows: int) -> Curriculum:
    """The same skills, whose observations show `rows` earlier ones."""
    if not rows:
        return curriculum
    outside = [skill.name for skill in curriculum if not hasattr(skill, "recall")]
    if outside or curriculum.is_padded:
        raise ValueError(
            "a memory of the episode needs skills in worlds, of the same size; give --memory 0"
            + (f" or leave out {', '.join(outside)}" if outside else "")
        )
    return curriculum.under(recall=rows)
