"""Disks that are full, read-only, slow or gone cost a run one line and no checkpoint."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dying import at_disk_call, fork

import clrl
from benchmarks.kill_storm import AGENTS, TINY, final, same, undisturbed
from clrl import checkpoint, cli, sealed, trainer
from clrl.run import Run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return undisturbed(tmp_path_factory.mktemp("whole"), "ppo")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB: room for a run's first checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("disks cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def command(*arguments: str, before: Callable[[], None] = lambda: None) -> None:
    """`clrl` in a child process, tiny; a RuntimeError gives its exit status."""

    def act() -> None:
        before()
        options = {k: v for k, v in (TINY | AGENTS["ppo"]).items() if k not in _GIVEN}
        trainer.train = partial(trainer.train, **options)
        try:
            cli.main(arguments)
        except SystemExit as stop:
            os._exit(int(str(stop.code)))

    fork(act)


_GIVEN = ("curriculum", "protect", "quiet", "horizon", "steps_per_skill")
_PROTECT = ("--protect", "ewc", "distill", "replay")
_LENGTH = ("--horizon", "16", "--steps-per-skill", "384")
_TRAIN = ("train", "arm-reach,arm-press", *_PROTECT, *_LENGTH, "--json")


def fails(*arguments: str, before: Callable[[], None] = lambda: None) -> None:
    with pytest.raises(RuntimeError, match="a child failed with status 2"):
        command(*arguments, before=before)


def at_checkpoint(act: Callable[[Run], None], number: int) -> None:
    """Do something just before a run's checkpoint of that number, from 0, is written."""
    save, count = Run.save_checkpoint, 0

    def saving(self: Run, *args: Any) -> None:
        nonlocal count
        if count == number:
            act(self)
        count += 1
        save(self, *args)

    Run.save_checkpoint = saving  # type: ignore[assignment, method-assign]


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that a person saw."""
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("call", range(1, 11))  # call 0 is for parents, which are there
def test_a_failing_disk_stops_a_run_with_one_line_and_it_goes_on(
    call: int, whole: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    number = (errno.ENOSPC, errno.EROFS, errno.EIO)[call % 3]

    def fault() -> None:
        raise OSError(number, os.strerror(number))

    arm = partial(at_checkpoint, lambda _: at_disk_call(fault, call), 3)
    fails(*_TRAIN, "--out", str(out), before=arm)
    line = said(capfd)
    path = out / "checkpoints" / "000000192"
    assert line.startswith(f"clrl: checkpoint {path} was not written: {os.strerror(number)}; ")
    assert line.endswith(f"`clrl resume {out}`")
    kept = [path.name for path in sorted((out / "checkpoints").iterdir())]
    assert kept == ["000000000", "000000064", "000000128"]
    for name in kept:
        checkpoint.verify(out / "checkpoints" / name)
    if call == 5:
        assert same(final(clrl.resume(out, quiet=True)), final(whole))


def test_a_disk_that_really_is_full(
    small_disk: Path, whole: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "run"
    fails(*_TRAIN, "--out", str(out))
    assert "No space left on device" in said(capfd)
    newest = checkpoint.newest_valid(out / "checkpoints")
    assert newest is not None
    assert all(not p.name.startswith(".tmp-") for p in (out / "checkpoints").iterdir())
    shutil.copytree(out, tmp_path / "moved")
    assert same(final(clrl.resume(tmp_path / "moved", quiet=True)), final(whole))


def test_a_disk_that_became_read_only(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = small_disk / "run"
    fails(*_TRAIN, "--out", str(out))
    capfd.readouterr()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    fails("resume", str(out))
    assert "Read-only file system" in said(capfd)
    clrl.load(out)  # whoever only reads is free


def test_a_directory_that_is_gone_is_not_made_anew(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    before = partial(at_checkpoint, lambda run: shutil.rmtree(run.path), 2)
    fails(*_TRAIN, "--out", str(out), before=before)
    assert "was not written: the run's directory is gone" in said(capfd)
    assert not out.exists()


def test_a_slow_disk_has_longer_between_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = sealed.write
    steps: list[str] = []

    def slow(path: Path, *args: Any) -> None:
        steps.append(path.name)
        write(path, *args)
        time.sleep(0.5)

    monkeypatch.setattr(sealed, "write", slow)
    options = TINY | AGENTS["ppo"] | {"checkpoint_seconds": 1e-3}
    clrl.train(agent="ppo", out=tmp_path / "run", **options)
    # 2 % of the time: after half a second, the next within a skill is due 25 s later.
    assert steps == ["000000000", "000000384", "000000768"]
