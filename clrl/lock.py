"""One process at a time writes to a run; readers are free."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"

_LOG = logging.getLogger(__name__)
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # file systems that cannot lock


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, the file `lock` in it, which names the process that holds it.

    The lock is `flock`'s, which the system lets go of when the process ends, however it ends: a
    dead one never blocks. The file stays. Where the system or the file system knows no such lock
    there is none.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be written.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        raise BlockingIOError(
            f"{folder} is in use by process {holder or 'unknown'}; wait for it, or stop it"
        ) from None
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        _LOG.warning("%s cannot be locked: %s", folder, error.strerror)
