"""A run: the directory that holds everything one training did."""

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from clrl import checkpoint, sealed
from clrl.agents.catalog import make_agent
from clrl.config import Config, dumps
from clrl.envs.curriculum import Curriculum
from clrl.eval.retention import Retention


class Run:
    """A directory with `run.json`, `progress.csv`, `tb/`, `checkpoints/` and `retention.json`.

    Attributes:
        path: The directory.
        config: What was asked for.
        curriculum: The skills it learns.
    """

    def __init__(self, path: Path, config: Config, curriculum: Curriculum | None = None) -> None:
        self.path = path
        self.config = config
        self.curriculum = curriculum or Curriculum.from_json(config.curriculum)

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
            raise FileExistsError(f"{path} exists; choose another --out, or `clrl resume {path}`")
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
    def open(path: str | Path, curriculum: Curriculum | None = None) -> "Run":
        """Read a run from disk.

        Args:
            path: Its directory.
            curriculum: Its curriculum, where its skills cannot be built from their ids.

        Raises:
            ValueError: there is no run, or `run.json` is broken.
        """
        path = Path(path)
        file = path / "run.json"
        if not file.is_file():
            raise ValueError(f"{path} is not a run: it has no run.json")
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from None
        return Run(path, Config.from_json(content, str(file)), curriculum)

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
            checkpoint.write(path, state, info)
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
                if checkpoint.info(path)["final"]:
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

    def finished(self) -> list[Path]:
        """`finals` of a run that is finished.

        Raises:
            ValueError: it is not, or a checkpoint is missing.
        """
        finals = self.finals()
        whole = len(finals) == len(self.curriculum) + 1
        if not whole or not (self.path / "retention.json").is_file():
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
                if not checkpoint.info(path)["final"]:
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
        state, _ = checkpoint.read(path)
        return self.build(state["agent"])

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
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"{self.path}: its checkpoint does not fit: {reason}") from None
        return agent

    def retention(self) -> Retention:
        """The result in `retention.json`."""
        return Retention.load(self.path / "retention.json")
