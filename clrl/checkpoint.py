"""Checkpoints: nested Python state as safetensors and JSON, whole or not at all, never pickle.

A checkpoint is a directory with `state.safetensors` (arrays), `state.json` (everything else, with
the places of the arrays) and `manifest.json` (sizes and SHA-256 of both). It is written under a
temporary name, flushed to disk, the manifest last, and renamed; what a reader sees is complete.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

_FORMAT = 1
_ARRAYS, _TREE, _MANIFEST = "state.safetensors", "state.json", "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that is not complete and unaltered."""


def write(path: Path, state: Any, info: dict[str, Any]) -> None:
    """Write one checkpoint.

    Args:
        path: Its directory, which must not exist.
        state: Nested dicts, lists and tuples (which come back as lists) of tensors, NumPy arrays,
            strings, numbers, booleans and None. Keys may be strings or integers.
        info: Small JSON for `info`, readable without the state.

    Raises:
        FileExistsError: `path` exists.
        OSError: it cannot be written; nothing is left behind.
        TypeError: the state holds something else.
    """
    if path.exists():
        raise FileExistsError(f"checkpoint {path} exists")
    tensors: dict[str, torch.Tensor] = {}
    tree = _pack(state, tensors)
    contents = {_ARRAYS: save_tensors(tensors), _TREE: json.dumps(tree).encode()}
    files = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    }
    contents[_MANIFEST] = json.dumps(
        {"format": _FORMAT, "info": info, "files": files}, indent=2
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.mkdir()
        for name, data in contents.items():  # the manifest is the last
            _write_file(temporary / name, data)
        _flush(temporary)
        os.rename(temporary, path)
        _flush(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read(path: Path) -> tuple[Any, dict[str, Any]]:
    """State and info of a checkpoint.

    Raises:
        CheckpointError: a file is missing, truncated or altered, in one line.
    """
    manifest = _manifest(path)
    contents = {name: _verified(path, name, manifest) for name in (_ARRAYS, _TREE)}
    try:
        tensors = load_tensors(contents[_ARRAYS])
        state = _unpack(json.loads(contents[_TREE]), tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from None
    return state, manifest["info"]


def info(path: Path) -> dict[str, Any]:
    """What `write` was given as info; CheckpointError where the manifest is broken."""
    result: dict[str, Any] = _manifest(path)["info"]
    return result


def steps(folder: Path) -> list[Path]:
    """Checkpoints of a folder in the order of their step, complete or not."""
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir() and p.name.isdigit())


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint that is complete and unaltered, or None."""
    for path in reversed(steps(folder)):
        try:
            manifest = _manifest(path)
            for name in (_ARRAYS, _TREE):
                _verified(path, name, manifest)
        except CheckpointError:
            continue
        return path
    return None


def clean(folder: Path) -> None:
    """Remove what interrupted writes left."""
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for a value; containers and arrays become one-key objects that say what they are."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return {"int": str(int(value))}  # of any size
    if isinstance(value, float | np.floating):
        return {"float": float(value).hex()}  # exact, inf and nan too
    if isinstance(value, torch.Tensor | np.ndarray):
        key = str(len(tensors))
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        # cloned: safetensors refuses tensors that share memory
        tensors[key] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        return {kind: key}
    if isinstance(value, dict):
        return {"dict": [[_key(k), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_pack(v, tensors) for v in value]}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _key(key: Any) -> str | int:
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise TypeError(f"a checkpoint's keys are strings or integers, got {key!r}")
    return key


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "int":
        return int(content)
    if kind == "float":
        return float.fromhex(content)
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {k: _unpack(v, tensors) for k, v in content}
    if kind == "list":
        return [_unpack(v, tensors) for v in content]
    raise ValueError(f"unknown kind {kind!r}")


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        sound = manifest["format"] == _FORMAT and isinstance(manifest["info"], dict)
        files = manifest["files"]
        sound = sound and all(isinstance(files[n]["bytes"], int) for n in (_ARRAYS, _TREE))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(f"checkpoint {path}: {_MANIFEST} is missing or broken")
    return manifest  # type: ignore[no-any-return]


def _verified(path: Path, name: str, manifest: dict[str, Any]) -> bytes:
    expected = manifest["files"][name]
    try:
        size = (path / name).stat().st_size
        data = (path / name).read_bytes() if size == expected["bytes"] else b""
    except OSError:
        raise CheckpointError(f"checkpoint {path}: {name} is missing") from None
    if hashlib.sha256(data).hexdigest() != expected.get("sha256"):
        raise CheckpointError(
            f"checkpoint {path}: {name} does not match its manifest; "
            "delete this checkpoint to go on from the one before"
        )
    return data


def _write_file(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
