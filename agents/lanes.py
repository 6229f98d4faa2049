"""Independent pieces of work side by side: threads of a CPU, branches of a GPU's graph."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch

Work = Callable[[], Any]

_STREAMS: dict[torch.device, list[torch.cuda.Stream]] = {}


class _Threads:
    """Those that take work off the one that has it."""

    count = 1  # it included
    pool: ThreadPoolExecutor | None = None


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
    _Threads.count = count  # whoever is at work still has the pool there was
    _Threads.pool = ThreadPoolExecutor(count - 1, "clrl-lane") if count > 1 else None


def side_by_side(device: torch.device, *works: Work) -> list[Any]:
    """Results of pieces of work, none of which needs what another gives.

    On a CPU they share the threads of `set_lanes`; the first piece is always the caller's, so that
    what draws random numbers belongs there. While a CUDA graph is captured each becomes a branch of
    it, since kernels on small batches fill a fraction of a GPU. Elsewhere they run one after
    another. Memory is safe: whoever calls keeps what the pieces read until all of them are done,
    and a branch takes its own from its stream.
    """
    if device.type == "cpu" and _Threads.pool is not None:
        return _in_threads(_Threads.pool, works)
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


def _in_threads(pool: ThreadPoolExecutor, works: Sequence[Work]) -> list[Any]:
    """What no thread has begun when its result is needed is done here; so pieces may nest."""
    gradients = torch.is_grad_enabled()  # each thread has its own answer
    begun = [pool.submit(_with_gradients, gradients, work) for work in works[1:]]
    try:
        own = {0: works[0]()}
        for i in reversed(range(len(begun))):  # threads take the first ones first
            if begun[i].cancel():
                own[i + 1] = works[i + 1]()
        return [own[i] if i in own else begun[i - 1].result() for i in range(len(works))]
    except BaseException:
        wait([future for future in begun if not future.cancel()])
        raise


def _with_gradients(enabled: bool, work: Work) -> Any:
    with torch.set_grad_enabled(enabled):
        return work()


def _streams(device: torch.device, count: int) -> Sequence[torch.cuda.Stream]:
    made = _STREAMS.setdefault(device, [])
    while len(made) < count:
        made.append(torch.cuda.Stream(device))
    return made[:count]
