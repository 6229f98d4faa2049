"""Independent pieces of work side by side on a GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

_STREAMS: dict[torch.device, list[torch.cuda.Stream]] = {}


def side_by_side(device: torch.device, *works: Callable[[], Any]) -> list[Any]:
    """Results of pieces of work, none of which needs what another gives.

    While a CUDA graph is captured each becomes a branch of it, since kernels on small batches fill
    a fraction of a GPU. Elsewhere they run one after another. Memory is safe: whoever calls keeps
    what the pieces read until all of them are done, and a branch takes its own from its stream.
    """
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


def _streams(device: torch.device, count: int) -> Sequence[torch.cuda.Stream]:
    made = _STREAMS.setdefault(device, [])
    while len(made) < count:
        made.append(torch.cuda.Stream(device))
    return made[:count]
