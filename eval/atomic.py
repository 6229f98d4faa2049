"""Files that readers see either as they were or whole."""

import os
from contextlib import suppress
from pathlib import Path


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, or put another in its place, so that being killed leaves the old or the new.

    Raises:
        OSError: It cannot be written; an older file stays as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".tmp-{target.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
