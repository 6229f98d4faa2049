"""Independent pieces of work side by side: threads of a CPU, branches of a GPU's graph."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from select import select
from threading import Lock, Thread
from time import sleep
from typing import Any

import torch

Work = Callable[[], Any]

_LOOKS = 200  # for a result, about a microsecond each; being woken takes 60
_give_way = partial(select, (), (), (), 0) if os.name == "posix" else partial(sleep, 0)  # to others

_CPU = torch.device("cpu")
_STREAMS: dict[torch.device, list[torch.cuda.Stream]] = {}


class _Piece:
    """Work for whoever takes it first: a thread, or the one that needs its result.

    `concurrent.futures` would take 5 to 18 us more for it, of the 140 that two short ones take.
    """

    def __init__(self, work: Work) -> None:
        self._work, self._enabled = work, torch.is_grad_enabled()  # each thread has its own answer
        self._untaken, self._undone = Lock(), Lock()
        self._undone.acquire()
        self._result: Any = None
        self._error: BaseException | None = None
        _Threads.hold(1)

    def run(self) -> None:
        """Do it, if nobody has taken it."""
        if not self._untaken.acquire(blocking=False):
            return
        try:
            with torch.set_grad_enabled(self._enabled):
                self._result = self._work()
        except BaseException as error:  # for whoever asks for the result
            self._error = error
        finally:
            _Threads.hold(-1)
            self._undone.release()

    def result(self) -> Any:
        """What it gave or raised."""
        self.run()
        self._wait()
        if self._error is not None:
            raise self._error
        return self._result

    def end(self) -> None:
        """Have it done, or never to be done."""
        if self._untaken.acquire(blocking=False):
            _Threads.hold(-1)
        else:
            self._wait()

    def _wait(self) -> None:
        for _ in range(_LOOKS):
            if not self._undone.locked():
                return
            _give_way()
        with self._undone:
            pass


class _Threads:
    """Those that take work off the one that has it."""

    count = 1  # it included
    queue: SimpleQueue[_Piece | None] = SimpleQueue()
    _pieces = 0  # that they have been given and have not done
    _lock = Lock()  # of that number

    @classmethod
    def hold(cls, more: int) -> None:
        with cls._lock:
            cls._pieces += more

    @classmethod
    def all_busy(cls) -> bool:
        return cls._pieces >= cls.count - 1

    @classmethod
    def begin(cls, work: Work) -> _Piece:
        piece = _Piece(work)
        cls.queue.put(piece)
        return piece


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_lanes(count: int) -> None:
    """Let `side_by_side` use so many threads of a CPU, 0 for one a core; it begins with 1.

    Results are the same to the bit. It goes with `torch.set_num_threads(1)`: two networks on a
    thread each take less time than both of them, one after the other, on two.
    """
    count = count or cores()
    if count == _Threads.count:
        return
    for _ in range(1, _Threads.count):
        _Threads.queue.put(None)  # ends one, once it has done what is asked for before
    _Threads.count, _Threads.queue = count, SimpleQueue()
    for i in range(1, count):
        Thread(target=_serve, args=[_Threads.queue], name=f"clrl-lane-{i}", daemon=True).start()


def side_by_side(device: torch.device, *works: Work) -> list[Any]:
    """Results of pieces of work, none of which needs what another gives.

    On a CPU they share the threads of `set_lanes`; the first piece is always the caller's, so that
    what draws random numbers belongs there. While a CUDA graph is captured each becomes a branch of
    it, since kernels on small batches fill a fraction of a GPU. Elsewhere they run one after
    another. Memory is safe: whoever calls keeps what the pieces read until all of them are done,
    and a branch takes its own from its stream.
    """
    if device.type == "cpu":
        return _in_threads(works)
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        return [work() for work in works]
    here = torch.cuda.current_stream(device)
    first, *others = works
    branches = _streams(device, len(others))
    results = []
    for stream, work in zip(branches, others, strict=True):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            results.append(work())
    results.insert(0, first())
    for stream in branches:
        here.wait_stream(stream)
    return results


class Aside:
    """Work done by the end of a `with` block, by a thread of a CPU if one was free at its start.

    For another device it is done as it is added.
    """

    def __init__(self, device: torch.device = _CPU) -> None:
        self._alone = device.type != "cpu" or _Threads.all_busy()
        self._begun: list[_Piece] = []

    def add(self, work: Work) -> Work:
        """Have work done, and get what gives its result; what it reads stays as it is."""
        if self._alone:
            result = work()
            return lambda: result
        self._begun.append(_Threads.begin(work))
        return self._begun[-1].result

    def __enter__(self) -> "Aside":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        _finish(self._begun, failed=kind is not None)


def _in_threads(works: Sequence[Work]) -> list[Any]:
    if len(works) == 1 or _Threads.all_busy():
        return [work() for work in works]
    begun = [_Threads.begin(work) for work in works[1:]]
    try:
        result = works[0]()
    except BaseException:
        _finish(begun, failed=True)
        raise
    return [result, *_finish(begun)]


def _finish(begun: Sequence[_Piece], failed: bool = False) -> list[Any]:
    """Results of pieces, all of them at an end even where one fails."""
    try:  # threads take the first ones first
        return [] if failed else [piece.result() for piece in reversed(begun)][::-1]
    finally:
        for piece in begun:
            piece.end()


def _serve(queue: SimpleQueue[_Piece | None]) -> None:
    torch.set_num_threads(1)  # what the caller set holds for MKL in its own thread alone
    while (piece := queue.get()) is not None:
        piece.run()
        del piece  # and with it what it reads


def _streams(device: torch.device, count: int) -> Sequence[torch.cuda.Stream]:
    made = _STREAMS.setdefault(device, [])
    while len(made) < count:
        made.append(torch.cuda.Stream(device))
    return made[:count]
