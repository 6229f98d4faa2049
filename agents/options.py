"""What a class can be built with: names, kinds and ranges of its options, told in one line."""

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from numbers import Integral, Real
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_OTHERS = {list: "a list", tuple: "a list", dict: "a table", Mapping: "a table", type: "a class"}
_KINDS: dict[Any, str] = _SCALARS | _OTHERS | {Callable: "a function"}

# Of Stable-Baselines3's options, which it takes as they are: least and most.
_RANGES = {
    **dict.fromkeys(("n_steps", "n_epochs", "batch_size", "buffer_size"), (1, math.inf)),
    **dict.fromkeys(("train_freq", "target_update_interval"), (1, math.inf)),
    **dict.fromkeys(("learning_starts", "learning_rate", "clip_range"), (0, math.inf)),
    **dict.fromkeys(("max_grad_norm", "ent_coef", "vf_coef"), (0, math.inf)),
    **dict.fromkeys(("gamma", "gae_lambda", "tau"), (0, 1)),
    "gradient_steps": (-1, math.inf),  # -1 for as many as there were steps
}

ACTIVATIONS = ("Tanh", "ReLU", "LeakyReLU", "ELU")
"""Names of torch's classes that a policy's `activation_fn` may have; all can be exported."""


def check_options(what: str, kind: type, options: Mapping[str, Any]) -> None:
    """Raise ValueError at the first option that a class does not take, by name or by kind.

    Kinds are compared where the class declares them; what it declares in other ways may be fine.
    """
    known = options_of(kind)
    for name, value in options.items():
        if known and name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
            raise ValueError(f"{what} has no option {name!r}; {hint}")
        hint = known.get(name, Any)
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not any(_fits(member, value) for member in members):
            names = [_KINDS[m] for m in map(_kind, members) if m in _KINDS]
            wish = " or ".join(dict.fromkeys(names)) or "something else"
            raise ValueError(f"{what}: {name} must be {wish}, got {short(value)}")


def check_ranges(what: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError at the first number that no agent of Stable-Baselines3 can work with."""
    for name, (least, most) in _RANGES.items():
        value = options.get(name)
        if isinstance(value, int | float) and not least <= value <= most:
            wish = f"in [{least}, {most}]" if most < math.inf else f">= {least}"
            raise ValueError(f"{what}: {name} must be {wish}, got {short(value)}")


def check_layers(what: str, net_arch: Any, critic: str) -> None:
    """Raise ValueError where `net_arch` is not whole numbers >= 1, or such for each network."""
    networks = net_arch if isinstance(net_arch, Mapping) else {"pi": net_arch, critic: net_arch}
    if networks.keys() - {"pi", critic}:
        raise ValueError(f"{what}: net_arch may name the networks 'pi' and {critic!r}, no others")
    for sizes in networks.values():
        listed = isinstance(sizes, Sequence) and not isinstance(sizes, str)
        if not listed or not all(_fits(int, size) and size >= 1 for size in sizes):
            raise ValueError(
                f"{what}: net_arch must be a list of whole numbers >= 1, got {short(sizes)}"
            )


def options_of(kind: type) -> dict[str, Any]:
    """Names of what a class is built with, and the type that each declares, or `Any`.

    Nothing where it takes what its bases do not say.
    """
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(signature(vars(base)["__init__"]).parameters.values())[1:]
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and not p.name.startswith("_"):
                found.setdefault(p.name, _declared(p))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found
    return {}


def _declared(parameter: Parameter) -> Any:
    hint = parameter.annotation
    return Any if hint is Parameter.empty or isinstance(hint, str) else hint


def _kind(member: Any) -> Any:
    """What a member of a declared type is one of."""
    origin = get_origin(member) or member
    return Callable if getattr(origin, "__name__", "") == "Callable" else origin


def _fits(member: Any, value: Any) -> bool:
    """Whether a value may be what a member of a declared type asks for."""
    kind, is_bool = _kind(member), isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not is_bool
    if kind is int:
        return isinstance(value, Integral) and not is_bool
    if kind in (bool, str, NoneType):
        return isinstance(value, kind)
    return kind not in _KINDS or not isinstance(value, str | Real | NoneType)
