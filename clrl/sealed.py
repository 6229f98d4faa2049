"""Folders that are either whole or not there, and say what belongs in them.

Their manifest seals itself and holds size and sha256 of every other file. The sums find damage;
they are no signature. Loads nothing but the standard library.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clrl.envs.untrusted import parse_json, read_bytes

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"

Part = bytes | memoryview


def write(
    path: Path, files: Mapping[str, bytes | Iterable[Part]], manifest: Mapping[str, Any]
) -> None:
    """Write a new folder; it appears whole and on the disk, or not at all.

    Args:
        path: The folder, which must not exist; missing parents are made.
        files: Name and content of each file, whole or in parts, which are not copied.
        manifest: What to say besides `files`; JSON values.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as folder:
        sums = {
            file: write_file(folder / file, [data] if isinstance(data, bytes) else data)
            for file, data in files.items()
        }
        write_file(folder / MANIFEST, [seal({**manifest, "files": sums})])  # last


def write_file(path: Path, parts: Iterable[Part]) -> dict[str, Any]:
    """Write a new file to the disk; its size and sha256, taken of what is written.

    Raises:
        OSError: It exists, or cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def remove(path: Path) -> None:
    """Remove a folder; readers see it whole or not at all, whenever this process is killed.

    Raises:
        OSError: It cannot be removed.
    """
    hidden = _temporary(path)
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def clean(folder: Path) -> list[Path]:
    """Remove what writers that were killed left in a folder; not while another one is writing.

    Returns:
        What was removed.
    """
    leftovers = sorted(folder.glob(f"{TEMPORARY}*")) if folder.is_dir() else []
    for leftover in leftovers:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return leftovers


def read_manifest(data: bytes) -> dict[str, Any] | None:
    """What a manifest says, or None where it does not match its own sha256.

    Raises:
        ValueError: it is no manifest.
    """
    try:
        manifest: dict[str, Any] = parse_json(data)
        digest = manifest.pop("sha256", None)
        is_intact = seal(manifest) == data
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{MANIFEST} is not valid") from None
    return manifest if digest is not None and is_intact else None


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """A plain file of a folder, of at most `limit` bytes.

    Raises:
        ValueError: it is missing, or no such file; one line that begins with its name.
        OSError: it cannot be read.
    """
    try:
        return read_bytes(folder / name, limit)
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def verified(folder: Path, name: str, entry: Any, limit: int) -> bytes:
    """The same, if its size and sha256 are those of its entry in the manifest."""
    data = read_file(folder, name, limit)
    if entry != summed(data):
        raise ValueError(f"{name} does not match its sha256")
    return data


def summed(data: bytes) -> dict[str, Any]:
    """Size and sha256 of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def seal(manifest: Mapping[str, Any]) -> bytes:
    """The manifest's bytes, its own sha256 included, so that an altered one is noticed too."""
    digest = hashlib.sha256(to_json(manifest)).hexdigest()
    return to_json({**manifest, "sha256": digest})


def to_json(value: Any) -> bytes:
    """One line of JSON, without NaN."""
    return (json.dumps(value, allow_nan=False) + "\n").encode()


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` if the block succeeds, and vanishes if not.

    Its parent must exist. What the block writes there it brings to the disk itself.
    """
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
        _sync_folder(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        _sync_folder(path.parent)
    except OSError:
        # Whole, but perhaps not on the disk: the caller hears of a failure, so it must not stay.
        os.rename(path, temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open directories, and needs no sync for a rename
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
