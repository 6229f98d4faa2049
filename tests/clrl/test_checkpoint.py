import builtins
import errno
import json
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clrl import checkpoint, sealed
from clrl.checkpoint import CheckpointError

STATE: dict[str, Any] = {
    "w": torch.arange(6.0).reshape(2, 3),
    "rng": np.arange(4, dtype=np.uint32),
    "step": 7,
}
FILES = ("state.safetensors", "state.json", "manifest.json")
STEPS = 10  # mkdir, 3 x (open, fsync), fsync folder, rename, fsync parent

Fault = Callable[[], None]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A good checkpoint at step 1."""
    path = tmp_path / "runs" / checkpoint.name(1)
    checkpoint.write(path, STATE, {"step": 1})
    return path


def inject(monkeypatch: pytest.MonkeyPatch, at: int, fault: Fault, after: bool = False) -> None:
    """Make the call number `at` of those that reach the disk fail, once, before or after it."""
    calls = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            is_due = calls == at
            calls += 1
            if is_due and not after:
                fault()
            result = real(*args, **kwargs)
            if is_due and after:
                fault()
            return result

        return call

    for step in ("mkdir", "fsync", "rename"):
        monkeypatch.setattr(os, step, failing(getattr(os, step)))
    monkeypatch.setattr(sealed, "open", failing(builtins.open), raising=False)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_state_and_info_come_back(old: Path) -> None:
    state, info = checkpoint.read(old)
    assert info == checkpoint.info(old) == {"step": 1}
    assert torch.equal(state["w"], STATE["w"])
    assert state["rng"].dtype == np.uint32
    assert state["step"] == 7
    assert sorted(p.name for p in old.iterdir()) == sorted(FILES)


def test_what_was_read_can_be_trained_on(old: Path) -> None:
    state, _ = checkpoint.read(old)
    state["w"] += 1
    state["rng"] += np.uint32(1)
    checkpoint.verify(old)


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text() | st.integers(),
        st.recursive(
            st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_nested_states_come_back(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    path = tmp_path_factory.mktemp("nested") / checkpoint.name(0)
    checkpoint.write(path, state, {})
    assert checkpoint.read(path) == (state, {})


def test_an_existing_checkpoint_is_never_overwritten(old: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        checkpoint.write(old, {}, {})
    checkpoint.verify(old)


@pytest.mark.parametrize("info", [{"x": {1}}, {1: "x"}, {"x": (1, 2)}])
def test_info_must_be_json(tmp_path: Path, info: dict[Any, Any]) -> None:
    with pytest.raises(TypeError):
        checkpoint.write(tmp_path / "000000001", {}, info)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", range(STEPS))
def test_a_failed_write_leaves_nothing(old: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    with monkeypatch.context() as patch:
        inject(patch, at + 1, full_disk)  # call 0 makes the parents
        with pytest.raises(OSError, match="No space left"):
            checkpoint.write(old.with_name(checkpoint.name(2)), STATE, {})
    assert list(old.parent.iterdir()) == [old]
    assert checkpoint.newest_valid(old.parent) == old


def test_every_step_of_a_write_was_failed(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, STEPS + 1, full_disk)
    checkpoint.write(old.with_name(checkpoint.name(2)), STATE, {})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(STEPS))
def test_a_killed_write_leaves_the_older_or_the_whole_newer_one(
    old: Path, monkeypatch: pytest.MonkeyPatch, at: int, after: bool
) -> None:
    new = old.with_name(checkpoint.name(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            inject(monkeypatch, at + 1, killed, after)
            checkpoint.write(new, STATE, {})
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    is_renamed = at == STEPS - 1 or (at == STEPS - 2 and after)
    assert checkpoint.steps(old.parent) == ([old, new] if is_renamed else [old])
    newest = checkpoint.newest_valid(old.parent)
    assert newest == (new if is_renamed else old)
    assert torch.equal(checkpoint.read(newest)[0]["w"], STATE["w"])
    assert len(sealed.clean(old.parent)) == (not is_renamed and (at > 0 or after))
    assert not [p for p in old.parent.iterdir() if p.name.startswith(".")]


def test_a_disk_that_fills_up_within_a_file_leaves_nothing(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            checkpoint.write(old.with_name("000000002"), {"w": torch.ones(4096)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(old.parent.iterdir()) == [old]


def test_a_read_only_place_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    inject(monkeypatch, 1, refuse)
    with pytest.raises(OSError, match="Read-only"):
        checkpoint.write(tmp_path / "000000001", STATE, {})


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [alter, truncate, Path.unlink])
def test_a_damaged_checkpoint_is_refused_and_passed_over(
    old: Path, file: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    new = old.with_name(checkpoint.name(2))
    checkpoint.write(new, STATE, {})
    damage(new / file)
    problem = "is missing" if damage is Path.unlink else "(does not match its sha256|is not valid)"
    message = rf"^checkpoint {new}: {file} {problem}; restore it or delete the checkpoint$"
    for reader in (checkpoint.read, checkpoint.verify):
        with pytest.raises(CheckpointError, match=message):
            reader(new)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_valid(old.parent) == old
    assert str(new) in caplog.text


@pytest.mark.parametrize("file", FILES)
def test_every_flipped_byte_is_noticed(old: Path, file: str) -> None:
    whole = (old / file).read_bytes()
    for i in range(0, len(whole), 7):
        (old / file).write_bytes(whole[:i] + bytes([whole[i] ^ 32]) + whole[i + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.read(old)


def test_an_unknown_format_is_refused(old: Path) -> None:
    manifest = {"format": 2, "files": {}, "info": {}}
    (old / "manifest.json").write_bytes(sealed.seal(manifest))
    with pytest.raises(CheckpointError, match=r"manifest.json has format 2, not 1"):
        checkpoint.info(old)


@pytest.mark.parametrize(
    "manifest", [{"format": 1}, {"format": 1, "files": [], "info": {}}, {"format": 1, "files": {}}]
)
def test_a_manifest_with_other_entries_is_refused(old: Path, manifest: dict[str, Any]) -> None:
    (old / "manifest.json").write_bytes(sealed.seal(manifest))
    with pytest.raises(CheckpointError, match=r"manifest.json has other entries than format 1"):
        checkpoint.read(old)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("state.json", b'{"dict": []}'),
        ("state.json", b'{"pickle": "gASV"}'),
        ("state.json", b"{"),
        ("state.json", b"[" * 100_000),
        ("state.json", b"3"),
        ("state.safetensors", b"\xff" * 64),
        ("state.safetensors", b""),
    ],
)
def test_a_forged_checkpoint_is_refused(old: Path, file: str, data: bytes) -> None:
    manifest = json.loads((old / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"][file] = sealed.summed(data)
    (old / file).write_bytes(data)
    (old / "manifest.json").write_bytes(sealed.seal(manifest))
    with pytest.raises(CheckpointError, match=f"{file} is not valid: ") as refusal:
        checkpoint.read(old)
    assert "\n" not in str(refusal.value)


def test_the_newest_is_the_one_of_the_largest_step(old: Path) -> None:
    for step in (999_999_999, 1_000_000_000, 20):
        checkpoint.write(old.with_name(checkpoint.name(step)), {}, {"step": step})
    (old.parent / "latest").mkdir()
    (old.parent / ".tmp-000000003-x").mkdir()
    (old.parent / "000000004").touch()
    found = [checkpoint.info(path)["step"] for path in checkpoint.steps(old.parent)]
    assert found == [1, 20, 999_999_999, 1_000_000_000]
    newest = checkpoint.newest_valid(old.parent)
    assert newest is not None
    assert newest.name == "1000000000"


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest_valid(tmp_path) is None
    assert checkpoint.newest_valid(tmp_path / "absent") is None
    assert sealed.clean(tmp_path / "absent") == []


def test_steps_have_nine_digits() -> None:
    assert checkpoint.name(123_456) == "000123456"
    with pytest.raises(ValueError, match="step must be >= 0, got -1"):
        checkpoint.name(-1)


def test_leftovers_are_removed_and_nothing_else(old: Path) -> None:
    leftover = old.parent / ".tmp-000000002-abcdef01"
    shutil.copytree(old, leftover)
    assert sealed.clean(old.parent) == [leftover]
    assert list(old.parent.iterdir()) == [old]
