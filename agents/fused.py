"""Arithmetic that a GPU does in one kernel where torch would launch one for each operation."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

_LOG = logging.getLogger(__name__)
_NOTICE = "clrl: compiling updates for the GPU; takes about 20 s where torch has none of it kept"
_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Fusing:
    """Whether functions are compiled now, and what kept them from it once."""

    active = False
    told = False
    trouble = ""


@contextmanager
def fusing() -> Iterator[None]:
    """Let `fused` functions be compiled when they are called within."""
    before, _Fusing.active = _Fusing.active, True
    try:
        yield
    finally:
        _Fusing.active = before


def fused(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function of tensors that `torch.compile` compiles within `fusing`, and runs elsewhere.

    What `torch.compile` needs, such as a C compiler, may be missing on a machine: that is said
    once, and the function runs as it is.
    """
    compiled: Callable[..., Any] | None = None

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        nonlocal compiled
        if not _Fusing.active or _Fusing.trouble:
            return function(*args, **kwargs)
        if compiled is None:
            if not _Fusing.told:
                print(_NOTICE, file=sys.stderr, flush=True)
                _Fusing.told = True
            compiled = torch.compile(function, dynamic=True)
        try:
            result: _R = compiled(*args, **kwargs)
        except Exception as error:  # of dynamo, inductor, Triton, the C compiler
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                raise
            _Fusing.trouble = f"{type(error).__name__}: {error}".partition("\n")[0]
            _LOG.warning("clrl: torch.compile fails, updates are slower: %s", _Fusing.trouble)
            return function(*args, **kwargs)
        return result

    return call
