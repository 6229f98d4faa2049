"""Reads files that others may have written: plain ones, within limits, and JSON to the letter.

It lives beside the curricula, which are such files, because every other package may import it.
Loads nothing but the standard library.
"""

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

SMALL = 8 * 2**20
"""Most bytes of a file that people write or read: settings, results."""

_DEPTH = 200  # levels of a JSON document
_DIGITS = 40  # of an integer: 128 bits


def read_bytes(path: str | os.PathLike[str], limit: int = SMALL, *, follow: bool = False) -> bytes:
    """Content of a plain file.

    Pipes and devices are refused without waiting for them, and links too, which may lead anywhere.

    Args:
        path: The file.
        limit: Most bytes it may have.
        follow: Take what a link leads to, for files that a person names.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: it cannot be read.
        ValueError: it is no plain file, or larger; the message goes on from the file's name.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow and os.path.islink(path):
        raise ValueError("is not a plain file: it is a link")
    try:
        descriptor = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # a socket, a link in a loop, a name with a file for a folder
        raise ValueError(f"is not a plain file: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is not a plain file")
        if (size := found.st_size) > limit:
            raise ValueError(f"is larger than {limit:,} bytes")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(size + 1)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise ValueError("changed while it was read")
    return data


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON document in UTF-8.

    Stricter than `json.loads`: no key twice, no NaN or infinity (nor numbers that become one), at
    most 200 levels, integers of at most 40 digits.

    Raises:
        ValueError: it is not such a document; one line.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
        _check_depth(value)
        return value
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"must be JSON, got {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise ValueError(f"must be JSON of at most {_DEPTH} levels") from None


def check_tree(path: Path) -> None:
    """Refuse a folder that holds anything but plain files and folders, at any depth.

    Whoever writes into it afterwards stays within it, and nothing in it makes a reader wait.

    Raises:
        ValueError: it holds a link, a pipe or a device; one line.
    """
    for entry in _entries(path):
        if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
            kind = "a link" if entry.is_symlink() else "no plain file"
            raise ValueError(f"{entry.path} is {kind}; {path} may hold plain files only")


def _entries(path: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(path) as found:  # a training may go on in it
        for entry in found:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))


def _check_depth(value: Any) -> None:
    """So that nothing which walks through the value runs out of stack."""
    level = [value]
    for _ in range(_DEPTH):
        level = [child for part in level for child in _children(part)]
        if not level:
            return
    raise ValueError(f"must be JSON of at most {_DEPTH} levels")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise ValueError(f"{shown(key)} must be given once, got it twice")
        record[key] = value
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"numbers must be finite, got {name}")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"numbers must be finite, got {shown(digits)[1:-1]}")
    return value


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"integers must have at most {_DIGITS} digits, got more")
    return int(digits)


def line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())


def shown(value: Any) -> str:
    """A value as a message has it: one line, not long."""
    text = "null" if value is None else " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
