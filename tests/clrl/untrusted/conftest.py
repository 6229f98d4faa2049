"""A run and a bundle that others could alter, and how everything must be refused."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from clrl import export
from clrl.cli import main
from clrl.run import Run
from tests.clrl import forgery

Change = Callable[[Path], None]
SECONDS = 60
CONTENTS = ["pickle", "zip", "zip bomb", "torch"]


@pytest.fixture(scope="session")
def files(run: Run) -> dict[str, bytes]:
    return export.export(run, allow_forgetting=True)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    shutil.copytree(run.path, tmp_path / "in" / "run")
    return tmp_path / "in" / "run"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where a payload leaves its mark."""
    return tmp_path / "executed"


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(capsys: pytest.CaptureFixture[str], marker: Path, *arguments: str) -> str:
    """One line, status 2, in time, and nothing was executed."""
    with in_time(), pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert len(lines[0]) < 1000
    assert "CLRL_DEBUG" not in lines[0]  # it was meant for users
    assert not marker.exists()
    return lines[0]


def content_of(kind: str, marker: Path, tmp_path: Path) -> bytes:
    if kind == "torch":
        torch.save({"w": forgery.Payload(marker)}, tmp_path / "x.pt")
        return (tmp_path / "x.pt").read_bytes()
    if kind == "zip bomb":
        return forgery.bomb()
    return (forgery.pickled if kind == "pickle" else forgery.zipped)(marker)
