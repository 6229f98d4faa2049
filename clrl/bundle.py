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

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrl import sealed
from clrl.envs.untrusted import parse_json
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
        manifest = sealed.read_manifest(sealed.read_file(path, MANIFEST, _MANIFEST_LIMIT))
        if manifest is None:
            raise ValueError(f"{MANIFEST} does not match its sha256")
        sums = manifest.get("files")
        if manifest.get("format") != FORMAT or not isinstance(sums, dict):
            raise ValueError(f"{MANIFEST} is not of format {FORMAT}")
        _same_names(set(sums), set(FILES), MANIFEST)
        _same_names({entry.name for entry in os.scandir(path)}, {*FILES, MANIFEST}, "the folder")
        files = {name: sealed.verified(path, name, sums[name], _LIMITS[name]) for name in FILES}
        for name in (GRAPH, LEAPP_GRAPH):
            check_graph(files[name], name)
        check_tensors(files[WEIGHTS], WEIGHTS, dtypes=("F32", "I64"))
        return Bundle(path, _contract(files), files)
    except ValueError as error:
        raise BundleError(path, str(error)) from None


def parse(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object; ValueError that names the file where it is none."""
    try:
        content = parse_json(data)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not a JSON object")
    return content


def _contract(files: dict[str, bytes]) -> dict[str, Any]:
    contract = parse(files[CONTRACT], CONTRACT)
    if contract.get("format") != FORMAT or not isinstance(contract.get("skills"), list):
        raise ValueError(f"{CONTRACT} is not of format {FORMAT}")
    others = {n: sealed.summed(data)["sha256"] for n, data in files.items() if n != CONTRACT}
    if contract.get("sha256") != others:  # so that files of two bundles never mix
        raise ValueError(f"{CONTRACT} was not written for these files")
    return contract


def _same_names(found: set[str], wanted: set[str], where: str) -> None:
    if missing := wanted - found:
        raise ValueError(f"{min(missing)} is missing in {where}")
    if extra := found - wanted:
        raise ValueError(f"{min(extra)!r} does not belong in {where}")
