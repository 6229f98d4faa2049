"""A bundle: the folder that carries a trained policy to a robot.

    policy.onnx           all skills, from raw observations to actions within their limits
    policy.json           what goes in and comes out, by name, unit and order; what was measured
    golden.json           observations of every skill with the actions the trained agent took
    weights.safetensors   the tables of policy.onnx by name
    leapp.yaml, .onnx     the same policy for NVIDIA's LEAPP, one input for each part
    README.md             the model card
    manifest.json         size and sha256 of each file, and its own

Reading one needs the standard library only, and never more memory than its limits allow.
"""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrl import sealed
from clrl.sealed import MANIFEST
from clrl.wire import check_graph, check_tensors

FORMAT = 1
GRAPH, CONTRACT, GOLDEN = "policy.onnx", "policy.json", "golden.json"
WEIGHTS, CARD = "weights.safetensors", "README.md"
LEAPP, LEAPP_GRAPH = "leapp.yaml", "leapp.onnx"
FILES = (GRAPH, CONTRACT, GOLDEN, WEIGHTS, LEAPP, LEAPP_GRAPH, CARD)
_MANIFEST_LIMIT = 64 * 1024
_LIMITS = {name: 8 * 2**20 for name in FILES} | {
    name: 256 * 2**20 for name in (GRAPH, WEIGHTS, LEAPP_GRAPH)
}


class BundleError(ValueError):
    """A bundle is damaged, incomplete, or not one of ours."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"bundle {path}: {problem}; do not use it, export or fetch it again")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked.

    Attributes:
        path: Where it lies.
        contract: Content of `policy.json`.
        files: Content of every file.
    """

    path: Path
    contract: dict[str, Any]
    files: dict[str, bytes]


def read(path: str | Path) -> Bundle:
    """Read a bundle and check every byte; these very bytes are what is used afterwards.

    Raises:
        BundleError: a file is missing, altered, too much, too large or not what it must be.
        OSError: it cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise BundleError(path, "there is no such folder")
    try:
        manifest = sealed.read_manifest(_read(path, MANIFEST, _MANIFEST_LIMIT))
        if manifest is None:
            raise ValueError(f"{MANIFEST} does not match its sha256")
        sums = manifest.get("files")
        if manifest.get("format") != FORMAT or not isinstance(sums, dict):
            raise ValueError(f"{MANIFEST} is not of format {FORMAT}")
        _same_names(set(sums), set(FILES), MANIFEST)
        _same_names({entry.name for entry in os.scandir(path)}, {*FILES, MANIFEST}, "the folder")
        files = {name: _verified(path, name, sums[name]) for name in FILES}
        for name in (GRAPH, LEAPP_GRAPH):
            check_graph(files[name], name)
        check_tensors(files[WEIGHTS], WEIGHTS)
        return Bundle(path, _contract(files[CONTRACT]), files)
    except ValueError as error:
        raise BundleError(path, str(error)) from None


def parse(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object; ValueError that names the file where it is none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not a JSON object")
    return content


def _contract(data: bytes) -> dict[str, Any]:
    contract = parse(data, CONTRACT)
    if contract.get("format") != FORMAT or not isinstance(contract.get("skills"), list):
        raise ValueError(f"{CONTRACT} is not of format {FORMAT}")
    return contract


def _same_names(found: set[str], wanted: set[str], where: str) -> None:
    if missing := wanted - found:
        raise ValueError(f"{min(missing)} is missing in {where}")
    if extra := found - wanted:
        raise ValueError(f"{min(extra)!r} does not belong in {where}")


def _verified(path: Path, name: str, entry: Any) -> bytes:
    data = _read(path, name, _LIMITS[name])
    if entry != sealed.summed(data):
        raise ValueError(f"{name} does not match its sha256")
    return data


def _read(path: Path, name: str, limit: int) -> bytes:
    """A plain file of at most `limit` bytes; no link leads out of the folder."""
    file = path / name
    try:
        info = file.lstat()
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"{name} is not a plain file")
    with open(file, "rb") as opened:
        data = opened.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{name} is larger than {limit:,} bytes")
    return data
