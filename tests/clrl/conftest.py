"""Runs in tests look at their skills less often than runs do."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from clrl import trainer
from clrl.run import Run

Stopped = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(autouse=True, scope="session")
def _short_probes() -> None:
    trainer._PROBE_EPISODES = 2


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
