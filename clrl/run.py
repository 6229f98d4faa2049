"""A run: the directory that holds everything one training did."""

import errno
import logging
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from clrl import checkpoint, identity, sealed
from clrl.agents.catalog import make_agent
from clrl.agents.pickled import PICKLED
from clrl.config import Config, dumps
from clrl.envs.curriculum import Curriculum
from clrl.envs.untrusted import SMALL, check_tree, parse_json, shown
from clrl.eval.retention import Retention

_LOG = logging.getLogger(__name__)

MISFITS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RuntimeError, TypeError, ValueError),
)
"""What a saved state raises in an agent or in worlds that it is not of."""


class Run:
    """A directory with `run.json`, `progress.csv`, `tb/`, `checkpoints/` and `retention.json`.

    It stands wherever the path of a run does: `clrl.evaluate(clrl.train("arm3"))`.

    Attributes:
        path: The directory.
        config: What was asked for.
        curriculum: The skills it learns.
    """

    def __init__(self, path: Path, config: Config, curriculum: Curriculum | None = None) -> None:
        self.path = path
        self.config = config
        self.curriculum = curriculum or Curriculum.from_json(config.curriculum)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @staticmethod
    def create(
        path: Path,
        config: Config,
        curriculum: Curriculum,
        fill: "Callable[[Run], None]" = lambda run: None,
    ) -> "Run":
        """Make the directory, or nothing.

        Args:
            path: Where.
            config: What was asked for.
            curriculum: The skills.
            fill: Puts more into it before it appears under its name.

        Raises:
            FileExistsError: there is something at that path.
            OSError: it cannot be written.
        """
        if path.exists():
            going_on = f", or `clrl resume {path}`" if (path / "run.json").exists() else ""
            raise FileExistsError(f"{path} exists; choose another --out{going_on}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(f"{path.parent} is a file, not a directory") from None
        with sealed.staged(path) as folder:
            (folder / "checkpoints").mkdir()
            sealed.write_file(folder / "run.json", [dumps(config.to_json()).encode()])
            fill(Run(folder, config, curriculum))
        return Run(path, config, curriculum)

    @staticmethod
    def open(path: str | PathLike[str], curriculum: Curriculum | None = None) -> "Run":
        """Read a run from disk.

        Args:
            path: Its directory.
            curriculum: Its curriculum, where its skills cannot be built from their ids.

        Raises:
            ValueError: there is no run, or `run.json` is broken.
        """
        if not isinstance(path, str | PathLike):
            raise ValueError(f"a run is given by its path, not as a {type(path).__name__}")
        path = Path(path)
        if path.suffix == ".zip" and path.is_file():
            raise ValueError(f"{path} is a file of Stable-Baselines3, not a run: {PICKLED}")
        if not (path / "run.json").exists():
            raise ValueError(f"{path} is not a run: it has no run.json")
        check_tree(path)
        data = sealed.read_file(path, "run.json", SMALL)
        try:
            config = Config.from_json(parse_json(data), "it")
            run = Run(path, config, curriculum)
        except ValueError as error:
            raise ValueError(f"{path / 'run.json'} is not valid: {error}") from None
        if curriculum is not None:
            run.curriculum = _like(config, curriculum, path)
        return run

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, named by environment steps."""
        return self.path / "checkpoints"

    def save_checkpoint(self, step: int, state: dict[str, Any], info: dict[str, Any]) -> None:
        """Write one checkpoint, then drop older ones within a skill that nothing needs.

        Raises:
            OSError: it cannot be written; the older ones are all there.
        """
        path = self.checkpoints / checkpoint.name(step)
        try:
            if not (self.path / "run.json").is_file():  # or an empty mount point would be filled
                raise FileNotFoundError(errno.ENOENT, "the run's directory is gone")
            said = info | {"identity": identity.identity(self.config, self.curriculum)}
            checkpoint.write(path, state, said)
        except OSError as error:
            raise OSError(
                f"checkpoint {path} was not written: {error.strerror or error}; earlier ones are "
                f"untouched: once that is mended, `clrl resume {self.path}`"
            ) from error
        for old in self._passing()[: -self.config.keep_checkpoints]:
            sealed.remove(old)

    def like(self, name: str) -> str | None:
        """The skill that one which `clrl adapt` added starts from, if any."""
        found: str | None = (self.config.adapted or {"like": {}})["like"].get(name)
        return found

    def finals(self) -> list[Path]:
        """Checkpoints before training and at the end of each skill, in order.

        Raises:
            CheckpointError: one of them has a broken manifest.
        """
        found = []
        for path in checkpoint.steps(self.checkpoints):
            try:
                if _is_final(path):
                    found.append(path)
            except checkpoint.CheckpointError:
                if path.exists():  # training may have dropped it meanwhile
                    raise
        return found

    def clean(self) -> None:
        """Remove what a killed training left; only for the process that holds the lock."""
        for leftover in self.path.glob(f"{sealed.TEMPORARY}*"):
            if leftover.is_file():  # a folder is someone's export
                leftover.unlink()

    def finished(self, measured: bool = True) -> list[Path]:
        """`finals` of a run that is trained to its end.

        Args:
            measured: And has its result.

        Raises:
            ValueError: it is not, or a checkpoint is missing.
        """
        finals = self.finals()
        whole = len(finals) == len(self.curriculum) + 1
        if not whole or (measured and not (self.path / "retention.json").is_file()):
            raise ValueError(
                f"{self.path} is not finished: {len(finals)} of {len(self.curriculum) + 1} "
                f"checkpoints at the end of a skill; finish it with `clrl resume {self.path}`"
            )
        return finals

    def _passing(self) -> list[Path]:
        """Sound checkpoints within a skill; damaged ones stay for a person to look at."""
        passing = []
        for path in checkpoint.steps(self.checkpoints):
            with suppress(checkpoint.CheckpointError):
                if not _is_final(path):
                    passing.append(path)
        return passing

    def agent(self, path: Path | None = None) -> Any:
        """The agent of a checkpoint, the newest valid one by default, ready to act.

        Raises:
            ValueError: no checkpoint can be read, or it does not fit `run.json`.
        """
        path = path or checkpoint.newest_valid(self.checkpoints)
        if path is None:
            raise ValueError(f"{self.path} has no valid checkpoint")
        return self.build(self.read(path)["agent"])

    def read(self, path: Path, *, exact: bool = False) -> dict[str, Any]:
        """The state in a checkpoint of this run.

        Args:
            path: The checkpoint.
            exact: Refuse one that was made with other versions, which go on differently; otherwise
                they are told.

        Raises:
            ValueError: it cannot be read, or is of something else than this run.
        """
        state, info = checkpoint.read(path)
        try:
            found, heads = info.get("identity"), state["agent"]["plain"]["skills"]
            identity.check(found, self.config, self.curriculum, f"checkpoint {path}")
            identity.check_heads(heads, self.curriculum, f"checkpoint {path}")
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"checkpoint {path} does not fit: {error!r}") from None
        if (differ := identity.other_versions(found)) and exact:
            raise ValueError(
                f"checkpoint {path} was {differ}; a resumed run would differ: install those, or "
                f"`clrl resume {self.path} --allow-versions`"
            )
        if differ:
            _LOG.warning("checkpoint %s was %s", path, differ)
        return state

    def build(self, state: dict[str, Any] | None = None) -> Any:
        """An agent as configured, with the state of a checkpoint if one is given."""
        agent = make_agent(
            self.config.agent,
            observation_space=self.curriculum.observation_space,
            action_space=self.curriculum.action_space,
            worlds=self.config.worlds,
            protect=self.config.protect,
            joint=self.config.joint,
            seed=self.config.seed,
            device=self.config.device.removeprefix("warp:"),
            **self.config.options,
        )
        if state is not None:
            try:
                agent.load_train_state(state)
            except MISFITS as error:
                raise ValueError(
                    f"{self.path}: its checkpoint does not fit: {str(error)[:300]}"
                ) from error
        return agent

    def retention(self) -> Retention:
        """The result in `retention.json`.

        Raises:
            ValueError: it is not there yet, damaged, or of another run; one line that names both.
        """
        file = self.path / "retention.json"
        if not file.exists():
            raise ValueError(
                f"{self.path} is not finished; `clrl resume {self.path}` goes on with it"
            )
        result = Retention.load(file)
        pairs = {
            "curriculum": (result.curriculum, self.curriculum.name),
            "skills": (list(result.skills), self.curriculum.names),
            "agent": (result.agent, self.config.agent),
            "protections": (list(result.protections), self.config.methods),
            "seed": (result.seed, self.config.seed),
        }
        for key, (was, now) in pairs.items():
            if was != now:
                raise ValueError(f"{file} has the {key} {was!r}, and run.json has {now!r}")
        return result


def _is_final(path: Path) -> bool:
    """Whether a checkpoint is one before training or at the end of a skill."""
    final = checkpoint.info(path).get("final")
    if not isinstance(final, bool):
        raise checkpoint.CheckpointError(path, f"its manifest calls it {shown(final)}, not final")
    return final


def _like(config: Config, curriculum: Curriculum, path: Path) -> Curriculum:
    """A curriculum that was given, with the budgets of the run it must be of."""
    try:
        saved, name = config.curriculum["skills"], config.curriculum["name"]
        budgets = [table["steps"] for table in saved]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path / 'run.json'} is not valid: it lacks {error}") from None
    now = parse_json(dumps(curriculum.to_json()))["skills"]
    were, are = ([{**table, "steps": 0} for table in tables] for tables in (saved, now))
    if were != are:
        raise ValueError(
            f"{path} was trained on {shown(saved)}, and the curriculum given has {shown(now)}"
        )
    return Curriculum(name, curriculum.skills, budgets)
