"""What a malicious author would hand over: payloads, bombs, and files with the right sums."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clrl import sealed


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.marker),))


def pickled(marker: Path) -> bytes:
    return pickle.dumps(Payload(marker))


def zipped(marker: Path, name: str = "data.pkl") -> bytes:
    """As torch and SB3 keep theirs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, pickled(marker))
        archive.writestr("data", json.dumps({"policy_class": {":serialized:": "gASV"}}))
    return file.getvalue()


def bomb() -> bytes:
    """A few kilobytes that inflate to 64 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b"0" * 2**26)
    return file.getvalue()


def replaced(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Something else in place of a file."""

    def change(file: Path) -> None:
        file.unlink(missing_ok=True)
        make(file)

    return change


def sparse(file: Path) -> None:
    """A terabyte that takes no space."""
    with open(file, "wb") as opened:
        opened.truncate(2**40)


def linked(file: Path) -> None:
    """A link to the very same content elsewhere."""
    outside = file.parent.parent / f"outside-{file.name}"
    if file.exists():
        os.rename(file, outside)
    else:
        outside.touch()
    file.symlink_to(outside)


NOT_PLAIN: dict[str, Callable[[Path], None]] = {
    "pipe": replaced(os.mkfifo),
    "endless device": replaced(lambda file: file.symlink_to("/dev/zero")),
    "folder": replaced(Path.mkdir),
    "link out": linked,
    "terabyte": replaced(sparse),
}

NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "lists without end": b"[" * 100_000,
    "tables without end": b'{"a":' * 100_000,
    "deeper than stacks": b"[" * 900 + b"]" * 900,
    "a huge integer": b'{"a": ' + b"9" * 5000 + b"}",
    "an infinite float": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "a key twice": b'{"a": 1, "a": 2}',
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "zeros": bytes(1000),
}


def tensors(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with whatever header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _one(dtype: Any, shape: Any, offsets: Any) -> bytes:
    return tensors({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}, bytes(8))


NOT_TENSORS: dict[str, bytes] = {
    "empty": b"",
    "a header beyond the file": (2**63).to_bytes(8, "little") + b"{}",
    "offsets beyond the file": _one("F32", [2], [0, 2**40]),
    "negative offsets": _one("F32", [2], [-8, 0]),
    "negative shape": _one("F32", [-2, -1], [0, 8]),
    "a huge shape": _one("F32", [2**40, 2**40], [0, 8]),
    "shapes that overflow": _one("F32", [2**63, 2, 2**62], [0, 8]),
    "many dimensions": _one("F32", [2] * 100_000, [0, 8]),
    "a wider type": _one("F64", [2], [0, 8]),
    "an unknown type": _one("OBJECT", [2], [0, 8]),
    "a type that is a list": _one(["F32"], [2], [0, 8]),
    "overlaps": tensors(
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)
    ),
    "a hole": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "a tail": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8)),
    "a name twice": tensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
    "half a header": (20).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}',
    "nothing but a tail": tensors({}, b"beyond"),
    "a list": tensors([1, 2]),
    "depth": tensors(b"[" * 50_000),
}


def forge(checkpoint: Path, file: str, data: bytes) -> None:
    """Put content into a checkpoint whose sums agree with it."""
    manifest = json.loads((checkpoint / sealed.MANIFEST).read_bytes())
    del manifest["sha256"]
    manifest["files"][file] = sealed.summed(data)
    (checkpoint / file).write_bytes(data)
    (checkpoint / sealed.MANIFEST).write_bytes(sealed.seal(manifest))
