"""`clrl import`: an agent that plain Stable-Baselines3 trained becomes a run, to be built upon."""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

from clrl.agents.pickled import require_trust
from clrl.envs.catalog import make_skill
from clrl.envs.curriculum import Curriculum
from clrl.envs.untrusted import read_bytes
from clrl.eval.evaluator import Evaluator
from clrl.export import LEARNED
from clrl.measure import EVAL_SEED, measure_row
from clrl.position import Position
from clrl.preparation import folder_name, prepare
from clrl.run import Run
from clrl.sb3_file import LARGEST, Foreign, Statistics
from clrl.trainer import resume

_LOG = logging.getLogger(__name__)

_SEEN = 20_480  # steps in which protections look at what the agent does
_TRAINED = ("si", "packnet", "progressive", "compress")
"""Protections that remember how a skill was learned, of which there is nothing to see."""


def from_sb3(
    path: str | PathLike[str],
    skill: str,
    *,
    variant: Mapping[str, Any] | None = None,
    protect: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    vec_normalize: str | Path | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    threads: int = 0,
    quiet: bool = False,
) -> Run:
    """Make a run of an agent that Stable-Baselines3's own PPO or SAC trained on one skill.

    The run's agent acts as the one in the file does. It performs the skill for 20,480 steps without
    learning, so that the protections know what to keep, and is evaluated; then the run is one like
    others, for `clrl adapt`, `clrl evaluate`, `clrl export` and so on. Hyper-parameters of later
    training are clrl's own, but for the networks and gamma.

    Args:
        path: What `save` wrote. Of its pickles none is loaded: weights come through torch's
            restricted reader, settings as JSON.
        skill: What it was trained on: an id such as "arm-push" or "Reacher-v5", or "module:Class".
        variant: Options of the skill's class, such as `{"success_return": -5.0}`.
        protect: Names of protections, or names with their options; None for the default, EWC.
        vec_normalize: File of the `VecNormalize` that it was trained with, if any, which is
            unpickled and so can run any code.
        trust_pickle: That you trust whoever made the files; nothing is read otherwise.
        seed: Of every draw.
        out: The run's directory; `runs/` and the file's name by default.
        threads: Of the physics, 0 for all cores.
        quiet: Print nothing.

    Raises:
        ValueError: `trust_pickle` is not given, the file cannot be read or is of another kind of
            agent, or skill or protections do not fit it; nothing is written then.
        FileExistsError: `out` exists.
    """
    if not isinstance(path, str | PathLike):
        kind = type(path).__name__
        raise ValueError(f"an agent is imported from the file that `save` wrote, not as a {kind}")
    path = Path(path)
    if not path.exists() and Path(f"{path}.zip").exists():  # as SB3 finds it
        path = Path(f"{path}.zip")
    require_trust(path, trust_pickle)
    try:
        data = read_bytes(path, LARGEST, follow=True)
        foreign = Foreign.read(data)
    except FileNotFoundError:
        also = "" if path.suffix == ".zip" else f", nor {path}.zip"
        raise FileNotFoundError(f"there is no file {path}{also}") from None
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    seen = Statistics.read(Path(vec_normalize)) if vec_normalize is not None else None
    networks: dict[str, Any] = {"net_arch": foreign.net_arch, "normalize": seen is not None}
    if foreign.activation:
        networks["activation_fn"] = foreign.activation
    made = make_skill(skill, **(variant or {}))
    run = prepare(
        Curriculum(skill, [made]),
        foreign.agent,
        protect,
        seed=seed,
        steps_per_skill=_SEEN,
        out=out or Path("runs") / folder_name(path.stem),
        device="cpu",
        threads=threads,
        gamma=foreign.gamma,
        policy_kwargs=networks,
    )
    if blind := [name for name in run.config.protect if name in _TRAINED]:
        raise ValueError(
            f"{blind[0]} remembers how a skill was learned, of which a finished agent shows "
            "nothing; protect it by another, such as ewc"
        )
    origin = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    config = replace(run.config, imported=origin)
    _adopt(run.build(), foreign, seen)  # what does not fit must not leave a directory
    Run.create(run.path, config, run.curriculum, lambda made: _fill(made, foreign, seen))
    run = resume(run.path, run.curriculum, quiet=quiet)
    if (rate := run.retention().success[-1][0]) < LEARNED:
        _LOG.warning(
            "clrl: the agent succeeds in %.0f %% of %s; was it trained on another skill, or with a "
            "VecNormalize, for --vec-normalize?",
            100 * rate,
            made.name,
        )
    return run


def _adopt(agent: Any, foreign: Foreign, seen: Statistics | None) -> None:
    """Give the first skill of an agent the weights, and what is known of its observations."""
    state = agent.policy.state_dict()
    # A layer of SB3's is the first of ours for each skill.
    own = {key: key.replace(".layers.0", "") for key in state if "features" not in key}
    if strange := sorted(set(own.values()) ^ foreign.weights.keys()):
        lacks, ours = ("lacks", "has") if strange[0] in own.values() else ("has", "lacks")
        raise ValueError(f"the file's agent {lacks} {strange[0]}, which clrl's {ours}")
    weights = {key: foreign.weights[name] for key, name in own.items()}
    for key, weight in weights.items():
        if (there := tuple(weight.shape)) != (here := tuple(state[key].shape)):
            raise ValueError(
                f"the file's agent was trained on another skill: {own[key]} has the shape {there}, "
                f"this skill needs {here}"
            )
    agent.policy.load_state_dict(state | weights)
    if seen is not None:
        features = agent.policy.features
        if seen.mean.shape != features.mean[0].shape:
            raise ValueError(
                f"the file of VecNormalize is of {tuple(seen.mean.shape)} numbers, the skill's "
                f"observations are of {tuple(features.mean[0].shape)}"
            )
        for name, value in asdict(seen).items():
            getattr(features, name)[0] = value


def _fill(run: Run, foreign: Foreign, seen: Statistics | None) -> None:
    """Write what a training of the skill would have left: a checkpoint before, and one after."""
    clock, config, at = time.perf_counter(), run.config, Position()
    (name,) = run.curriculum.names
    evaluator = Evaluator(run.curriculum, episodes=config.episodes, threads=config.threads)
    agent = run.build()
    with closing(evaluator):
        _record(run, agent, evaluator, at)
        worlds = run.curriculum.vec_env(
            name, config.worlds, seed=config.seed, threads=config.threads, stagger=True
        )
        with closing(worlds):
            agent.begin_skill(name, worlds, _SEEN)
            _adopt(agent, foreign, seen)
            _perform(agent)
        _adopt(agent, foreign, seen)  # SAC's statistics have moved meanwhile
        agent.end_skill()
        at.skill, at.ends = 1, [agent.num_timesteps]
        at.cost["wall_seconds"] = time.perf_counter() - clock
        _record(run, agent, evaluator, at)


def _perform(agent: Any) -> None:
    """Let it do what it can without learning, for the protections to see."""
    agent.train = lambda *_, **__: None  # hides the method
    if agent.off_policy:
        starts, agent.learning_starts = agent.learning_starts, 0
    agent.learn(_SEEN, reset_num_timesteps=False)
    if agent.off_policy:
        agent.learning_starts = starts
    del agent.train


def _record(run: Run, agent: Any, evaluator: Evaluator, at: Position) -> None:
    """A row of the matrix, and the checkpoint that holds it."""
    start = time.perf_counter()
    (score,) = measure_row(run, evaluator, agent, EVAL_SEED)
    at.cost["eval_seconds"] += time.perf_counter() - start
    at.successes.append([int(score.success.sum())])
    at.returns.append([float(score.returns.mean())])
    # A point and no curve: nobody saw it learn.
    at.curves = {run.curriculum.names[0]: [[agent.num_timesteps, score.rate]]}
    state = {"agent": agent.train_state(experience=False), "position": asdict(at), "env": None}
    run.save_checkpoint(agent.num_timesteps, state, {"final": True, "skills": list(agent.skills)})
