"""Runs as short as tests can do with, and one that many of them read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import clrl
from clrl import trainer
from clrl.run import Run

Stopped = Callable[[int], AbstractContextManager[None]]

PAIR = ["arm-reach", "arm-press"]
SMALL: dict[str, Any] = {
    "protect": ["ewc", "distill", "replay"],
    "steps_per_skill": 768,
    "worlds": 4,
    "horizon": 25,
    "threads": 1,
    "episodes": 4,
    "quiet": True,
}
PPO: dict[str, Any] = SMALL | {"n_steps": 32, "batch_size": 64, "n_epochs": 2}
SAC: dict[str, Any] = SMALL | {
    "steps_per_skill": 240,
    "learning_starts": 100,
    "gradient_steps": 1,
    "batch_size": 32,
}


@pytest.fixture(autouse=True, scope="session")
def _short_probes() -> None:
    trainer._PROBE_EPISODES = 2


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A finished run, to be read and copied by whoever likes, and changed by nobody."""
    run = clrl.train(PAIR, out=tmp_path_factory.mktemp("runs") / "pair", **PPO)
    before = _content(run.path)
    yield run
    assert _content(run.path) == before


def _content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """`with stopped(n):` a training in it is stopped by Ctrl-C right after its n-th checkpoint."""

    @contextmanager
    def stopped(after: int) -> Any:
        save, count = Run.save_checkpoint, 0

        def save_then_stop(self: Run, *args: Any) -> None:
            nonlocal count
            save(self, *args)
            count += 1
            if count == after:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Run, "save_checkpoint", save_then_stop)
            with pytest.raises(KeyboardInterrupt):
                yield

    return stopped
