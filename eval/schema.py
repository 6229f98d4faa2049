"""What `retention.json` may hold, schema 1; every refusal is one line that names the key."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clrl.envs.untrusted import parse_json
from clrl.envs.untrusted import shown as _shown
from clrl.eval import metrics as formulas

VERSION = 1
MATRICES = ("success", "success_low", "success_high", "return")

_KEYS = (
    *("curriculum", "skills", "agent", "protections", "seed", "protocol"),
    *(*MATRICES, "metrics", "cost", "versions"),
)
_VERSIONS = ("clrl", "mujoco", "torch", "stable_baselines3", "gymnasium", "python")


def parsed(text: str | bytes) -> dict[str, Any]:
    """The document in a text, without its schema number; its values are not checked yet.

    Raises:
        ValueError: It is not JSON, of another schema, or has other keys than schema 1.
    """
    document = parse_json(text)
    if not isinstance(document, dict):
        raise ValueError(f"must be a JSON object, got {_shown(document)}")
    if type(version := document.pop("schema", None)) is not int or version != VERSION:
        raise ValueError(f"schema must be {VERSION}, got {_shown(version)}")
    _check_keys("", document, _KEYS)
    return document


def checked(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a document in their canonical types.

    Args:
        document: All keys of schema 1 but `schema`, already complete.

    Raises:
        ValueError: A value has the wrong type, shape or range, or does not follow from the others.
    """
    skills = _names("skills", document["skills"])
    if not skills or len(set(skills)) < len(skills):
        raise ValueError(f"skills must be one or more different names, got {_shown(list(skills))}")
    values: dict[str, Any] = {
        "curriculum": _text("curriculum", document["curriculum"]),
        "skills": skills,
        "agent": _text("agent", document["agent"]),
        "protections": _names("protections", document["protections"]),
        "seed": _integer("seed", document["seed"]),
        "protocol": _record("protocol", document["protocol"], _PROTOCOL),
    }
    values |= {key: _matrix(key, document[key], len(skills)) for key in MATRICES}
    _check_order(values)
    _check_each(values["protocol"], len(skills))
    values["metrics"] = _metrics(document["metrics"], values["success"])
    values["cost"] = _record("cost", document["cost"], _COST)
    values["versions"] = _record("versions", document["versions"], dict.fromkeys(_VERSIONS, _text))
    return values


def _metrics(value: Any, success: Any) -> dict[str, float | None]:
    """The metrics, if they are those of the matrix; anything else is an altered file."""
    stored = _record("metrics", value, dict.fromkeys(formulas.FORMULAS, _number_or_none))
    follows = formulas.metrics(success, stored["forward_transfer"])
    for key, right in follows.items():
        if not _same(stored[key], right):
            raise ValueError(
                f"metrics.{key} must be {_shown(right)}, as the success matrix gives, "
                f"got {_shown(stored[key])}; the file was altered"
            )
    return stored


def _same(a: float | None, b: float | None) -> bool:
    # Another machine may add in another order, so the last bits are not compared.
    return a is b if a is None or b is None else math.isclose(a, b, abs_tol=1e-9)


def _matrix(key: str, value: Any, skills: int) -> tuple[tuple[float, ...], ...]:
    rows = _sequence(key, value)
    if len(rows) != skills + 1:
        raise ValueError(
            f"{key} must have {skills + 1} rows, one more than skills, got {len(rows)}"
        )
    return tuple(_row(f"{key}[{i}]", row, skills, key != "return") for i, row in enumerate(rows))


def _row(key: str, value: Any, skills: int, is_rate: bool) -> tuple[float, ...]:
    cells = _sequence(key, value)
    if len(cells) != skills:
        raise ValueError(f"{key} must have {skills} values, one a skill, got {len(cells)}")
    numbers = tuple(_number(f"{key}[{j}]", cell) for j, cell in enumerate(cells))
    for j, number in enumerate(numbers):
        if is_rate and not 0.0 <= number <= 1.0:
            raise ValueError(f"{key}[{j}] must be within [0, 1], got {number}")
    return numbers


def _check_order(values: Mapping[str, Any]) -> None:
    for i, row in enumerate(values["success"]):
        for j, rate in enumerate(row):
            low, high = values["success_low"][i][j], values["success_high"][i][j]
            if not low <= rate <= high:
                raise ValueError(
                    f"success[{i}][{j}] must be within its interval [{low}, {high}], got {rate}"
                )


def _check_each(protocol: Mapping[str, Any], skills: int) -> None:
    for key in ("horizon", "success"):
        if isinstance(protocol[key], list) and len(protocol[key]) != skills:
            raise ValueError(
                f"protocol.{key} must have {skills} values, one a skill, got {len(protocol[key])}"
            )


def _record(
    key: str, value: Any, checks: Mapping[str, Callable[[str, Any], Any]]
) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} must be an object, got {_shown(value)}")
    _check_keys(f"{key}.", value, checks)
    return {name: check(f"{key}.{name}", value[name]) for name, check in checks.items()}


def _check_keys(prefix: str, record: Mapping[Any, Any], expected: Sequence[str] | Any) -> None:
    for name in expected:
        if name not in record:
            raise ValueError(f"{prefix}{name} is missing")
    for name in record:
        if name not in expected:
            raise ValueError(f"{_shown(f'{prefix}{name}')} is not a key of schema {VERSION}")


def _sequence(key: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key} must be a list, got {_shown(value)}")
    return value


def _names(key: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(f"{key}[{i}]", name) for i, name in enumerate(_sequence(key, value)))


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a non-empty string, got {_shown(value)}")
    return value


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {_shown(value)}")
    return value


def _integer(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} must be an integer, got {_shown(value)}")
    return value


def _number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not _is_finite(value):
        raise ValueError(f"{key} must be a finite number, got {_shown(value)}")
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _number_or_none(key: str, value: Any) -> float | None:
    return None if value is None else _number(key, value)


def _amount(key: str, value: Any) -> float:
    if (number := _number(key, value)) < 0:
        raise ValueError(f"{key} must be >= 0, got {_shown(value)}")
    return number


def _count(key: str, value: Any) -> int:
    if (number := _integer(key, value)) < 0:
        raise ValueError(f"{key} must be >= 0, got {_shown(value)}")
    return number


def _positive(key: str, value: Any) -> int:
    if (number := _integer(key, value)) < 1:
        raise ValueError(f"{key} must be >= 1, got {_shown(value)}")
    return number


def _one_or_each(check: Callable[[str, Any], Any], key: str, value: Any) -> Any:
    """One value for all skills, or a list with one for each."""
    if isinstance(value, list) and value:
        return [check(key, entry) for entry in value]
    return check(key, value)


_PROTOCOL: dict[str, Callable[[str, Any], Any]] = {
    "episodes": _positive,
    "horizon": lambda key, value: _one_or_each(_positive, key, value),
    "success": lambda key, value: _one_or_each(_text, key, value),
    "deterministic": _flag,
    "seed": _integer,
    "device": _text,
}
_COST: dict[str, Callable[[str, Any], Any]] = {
    "wall_seconds": _amount,
    "train_seconds": _amount,
    "eval_seconds": _amount,
    "env_steps": _count,
    "updates": _count,
    "parameters": _count,
    "protection_bytes": _count,
    "protection_seconds": _amount,
}
