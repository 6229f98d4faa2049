"""Checkpoints: directories that are either whole or not there.

    000123456/state.safetensors   tensors
    000123456/state.json          everything else, see `clrl.packing`
    000123456/manifest.json       format, size and sha256 of both, what the writer said about it

Nothing here can run code on loading. The sums find damage; they are no signature.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from clrl import sealed
from clrl.envs.untrusted import line, parse_json
from clrl.packing import pack, unpack
from clrl.sealed import MANIFEST
from clrl.tensor_file import tensor_parts
from clrl.wire import check_tensors

FORMAT = 1
TENSORS, STATE = "state.safetensors", "state.json"
# A replay buffer of a million transitions has a few gigabytes.
_LIMITS = {MANIFEST: 2**20, STATE: 64 * 2**20, TENSORS: 32 * 2**30}
_HEADER = 16 * 2**20

_LOG = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint is damaged or incomplete."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"checkpoint {path}: {problem}; restore it or delete the checkpoint")


def name(step: int) -> str:
    """Directory name of the checkpoint at an environment step, such as "000123456"."""
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step}")
    return f"{step:09d}"


def write(path: Path, state: Mapping[Any, Any], info: Mapping[str, Any]) -> None:
    """Write a checkpoint; it appears whole and on the disk, or not at all.

    Args:
        path: The new directory; missing parents are made.
        state: Nested state as `clrl.packing.pack` takes it.
        info: Small facts that are read without the state; JSON values only.

    Raises:
        FileExistsError: Something is at `path` already.
        OSError: It cannot be written; nothing is left behind.
        TypeError: The state or the info holds something that is not plain data.
        ValueError: The info holds a number that is not finite, or the state itself.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"checkpoint {path} exists already")
    if json.loads(sealed.to_json(info)) != info:
        raise TypeError(f"info of checkpoint {path} must be JSON values, which read back equal")
    packed, tensors = pack(state)
    files = {TENSORS: tensor_parts(tensors), STATE: [sealed.to_json(packed)]}
    sealed.write(path, files, {"format": FORMAT, "info": dict(info)})


def read(path: Path) -> tuple[dict[Any, Any], dict[str, Any]]:
    """State and info of a checkpoint, after checking every byte.

    Tensors are on the CPU; tuples come back as lists.

    Raises:
        CheckpointError: A file is missing, truncated, altered or of another format.
        OSError: A file cannot be read.
    """
    manifest = _manifest(path)
    data = _verified(path, TENSORS, manifest)
    packed = _verified(path, STATE, manifest)
    try:
        check_tensors(data, TENSORS, limit=_HEADER)
        tensors = safetensors.torch.load(data)
    except (ValueError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(path, f"{TENSORS} is not valid: {line(error)}") from None
    try:
        state = unpack(parse_json(packed), tensors)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(path, f"{STATE} is not valid: {line(error)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(path, f"{STATE} is not valid: it is no dictionary")
    return state, manifest["info"]


def info(path: Path) -> dict[str, Any]:
    """What the writer said about a checkpoint; reads the manifest only.

    Raises:
        CheckpointError: The manifest is missing, altered or of another format.
        OSError: It cannot be read.
    """
    facts: dict[str, Any] = _manifest(path)["info"]
    return facts


def verify(path: Path) -> None:
    """Check every byte of a checkpoint without building its state; errors as `read`."""
    manifest = _manifest(path)
    for file in (STATE, TENSORS):
        _verified(path, file, manifest)


def fingerprint(path: Path) -> str:
    """Sum over the tensors of a checkpoint, the same in every copy; errors as `info`."""
    found: str = _manifest(path)["files"][TENSORS]["sha256"]
    return found


def steps(folder: Path) -> list[Path]:
    """All checkpoints in a folder, valid or not, by rising step; empty without the folder."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if re.fullmatch(r"[0-9]{9,}", p.name) and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name))


def newest_valid(folder: Path) -> Path | None:
    """The latest checkpoint that is whole; damaged ones are passed over with a logged warning.

    Raises:
        OSError: A file is there but cannot be read, which a person should look at.
    """
    for path in reversed(steps(folder)):
        try:
            verify(path)
        except CheckpointError as error:
            _LOG.warning("%s", error)
        else:
            return path
    return None


def recover(folder: Path) -> Path | None:
    """The latest checkpoint that is whole, to go on from; not while another process writes there.

    Later ones, which are damaged, are kept as `damaged-NAME` for a person to look at, so that they
    are in nobody's way when training comes there again. What killed writers left is removed.

    Raises:
        OSError: A file is there but cannot be read, or the folder cannot be written.
    """
    sealed.clean(folder)
    newest = newest_valid(folder)
    for path in steps(folder) if newest else []:
        if int(path.name) > int(newest.name):  # type: ignore[union-attr]
            aside = folder / f"damaged-{path.name}"
            if aside.exists():
                sealed.remove(aside)
            path.rename(aside)
    return newest


def _manifest(path: Path) -> dict[str, Any]:
    if path.is_symlink():
        raise CheckpointError(path, "it is a link")
    try:
        manifest = sealed.read_manifest(sealed.read_file(path, MANIFEST, _LIMITS[MANIFEST]))
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None
    if manifest is None:
        raise CheckpointError(path, f"{MANIFEST} does not match its sha256")
    if manifest.get("format") != FORMAT:
        problem = f"{MANIFEST} has format {manifest.get('format')!r}, not {FORMAT}"
        raise CheckpointError(path, problem)
    files = manifest.get("files")
    is_known = isinstance(files, dict) and files.keys() == {TENSORS, STATE}
    if not is_known or not isinstance(manifest.get("info"), dict):
        raise CheckpointError(path, f"{MANIFEST} has other entries than format {FORMAT}")
    return manifest


def _verified(path: Path, file: str, manifest: Mapping[str, Any]) -> bytes:
    # These very bytes are decoded afterwards, so nothing can change between check and use.
    try:
        return sealed.verified(path, file, manifest["files"][file], _LIMITS[file])
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None
    except MemoryError:
        raise CheckpointError(path, f"{file} does not fit into memory") from None
