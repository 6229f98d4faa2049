"""Child processes that die, or whose disk fails, at a chosen moment."""

import builtins
import itertools
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from ctypes import Array, c_longlong
from multiprocessing.sharedctypes import RawArray
from typing import Any

from clrl import sealed
from clrl.eval import atomic

_DISK = ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir")

Board = Array[c_longlong]  # numbers that a child leaves to its parent, whatever becomes of it
SAVED, CALLS = 0, 1
Act = Callable[[], object]


def new_board() -> Board:
    """The last step saved, and how many calls reached the disk."""
    return RawArray(c_longlong, 2)


def fork(act: Act, kill_after: float | None = None) -> int | None:
    """Run in a child; the signal that ended it, or None where it ended by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException as error:
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"a child failed with status {os.WEXITSTATUS(status)}")
    return None


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_disk_call(fault: Act, at: float, after: bool = False, board: Board | None = None) -> None:
    """Make a fault happen at the call number `at` from now that reaches the disk, in this process.

    Args:
        fault: What happens.
        at: From 0; infinity only counts.
        after: After the call and not before it.
        board: Gets the number of calls so far.
    """
    calls = itertools.count()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            number = next(calls)
            if board is not None:
                board[CALLS] = number + 1
            if number == at and not after:
                fault()
            result = real(*args, **kwargs)
            if number == at and after:
                fault()
            return result

        return call

    for name in _DISK:
        setattr(os, name, counted(getattr(os, name)))
    for module in (sealed, atomic):
        module.open = counted(builtins.open)  # type: ignore[attr-defined]
