"""What a class can be built with: names and kinds of its options, for errors in one line."""

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import Parameter, signature
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_options(what: str, kind: type, options: Mapping[str, Any]) -> None:
    """Raise ValueError at the first option that a class does not take, by name or by kind.

    Kinds are compared for the values that files can hold, where the class declares its own.
    """
    known = options_of(kind)
    for name, value in options.items():
        if known and name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
            raise ValueError(f"{what} has no option {name!r}; {hint}")
        if wish := _wish(known.get(name, Any), value):
            raise ValueError(f"{what}: {name} must {wish}, got {short(value)}")


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


def _wish(hint: Any, value: Any) -> str | None:
    """What is wrong with a value, after "must", or None where it may be fine."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = [member for member in members if member in _KINDS or member is NoneType]
    if Any in members or type(value) in members or (type(value) is int and float in members):
        return None
    if not (isinstance(value, str) or (plain and len(plain) == len(members))):
        return None  # other kinds come in many forms, but none of them is text
    names = [_KINDS[member] for member in plain if member in _KINDS]
    return f"be {' or '.join(names)}" if names else "not be text"
