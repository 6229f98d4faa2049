"""Optimizers that do not load torch's compiler, which takes two seconds of every process.

torch keeps a few of `Optimizer`'s methods out of what it compiles, and loads the compiler at their
first call to say so. As long as nobody else has loaded it there is nothing to keep them out of.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch.optim import Optimizer

_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def make_light() -> None:
    """Have every optimizer's methods wait with torch's compiler until it is loaded anyway."""
    for name in _METHODS:
        method = getattr(Optimizer, name)
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            inner.__dynamo_disable = _waiting(method, inner)  # what `method` calls, if it has it


def _waiting(method: Callable[..., Any], inner: Any) -> Callable[..., Any]:
    @wraps(inner)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return inner(*args, **kwargs)
        if getattr(inner, "__dynamo_disable", None) is call:
            del inner.__dynamo_disable
        return method(*args, **kwargs)

    return call
