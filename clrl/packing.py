"""Nested Python state as JSON beside named tensors, exactly and without pickle.

JSON holds what it can name exactly: null, booleans, integers below 2^53, finite floats (their
shortest decimal form reads back to the same bits), strings and lists. Everything else is an object
with one key, which says what it is:

    {"dict": [[key, value], ...]}   in order, with string or integer keys
    {"int": "0x..."}                larger integers; decimal would take quadratic time
    {"float": "7ff0000000000000"}   infinities and NaN, as the bits of a double
    {"tensor": name}                a torch tensor among the named ones
    {"array": name}                 the same, handed back as a numpy array
"""

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clrl.tensor_file import NAMES

DTYPES = frozenset(NAMES)
"""What both torch and safetensors can hold."""

_EXACT = 2**53  # beyond it, JSON readers that know only doubles round integers


def pack(state: Mapping[Any, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Split a nested state into a JSON value and named tensors.

    Tuples become lists, numpy scalars Python numbers, parameters plain tensors. Tensors stay on
    their data where they can: do not change them before they are written.

    Args:
        state: Dictionaries (string or integer keys), lists, tuples, None, booleans, integers,
            floats, strings, torch tensors and numpy arrays, nested.

    Returns:
        The JSON value, and the tensors: contiguous, on the CPU, no two on the same memory.

    Raises:
        TypeError: Something else is in the state; the message says where.
        ValueError: The state contains itself.
    """
    packer = _Packer()
    try:
        return packer.pack(state, ("state",)), packer.tensors
    except RecursionError:
        raise ValueError("the state is nested too deeply; does it contain itself?") from None


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `pack` split.

    Raises:
        ValueError: The JSON value is not of this format, or its tensors are not these.
    """
    used: set[str] = set()
    try:
        state = _unpack(packed, tensors, used)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if unused := tensors.keys() - used:
        raise ValueError(f"it does not mention the tensor {min(unused)!r}")
    return state


class _Packer:
    """Collects tensors while it walks through a state."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._memory: set[int] = set()

    def pack(self, value: Any, place: tuple[str, ...]) -> Any:
        """The JSON value of a part of the state; `place` is the way to it."""
        match value:
            case None | bool():
                return value
            case str():
                return str(value)
            case int():
                return int(value) if abs(value) < _EXACT else {"int": hex(value)}
            case float():
                bits = struct.pack(">d", value).hex()
                return float(value) if math.isfinite(value) else {"float": bits}
            case list() | tuple():
                return [self.pack(item, (*place, str(i))) for i, item in enumerate(value)]
            case dict():
                return {"dict": [self._item(key, value[key], place) for key in value]}
            case Tensor():
                return {"tensor": self._add(value.detach(), place)}
            case np.ndarray() if not isinstance(value, np.ma.MaskedArray):
                return {"array": self._add(_as_tensor(value, place), place)}
            case np.bool_() | np.integer() | np.floating() if not isinstance(value, np.longdouble):
                return self.pack(value.item(), place)
        raise TypeError(f"{'/'.join(place)} must be plain data, got {type(value).__name__}")

    def _item(self, key: Any, value: Any, place: tuple[str, ...]) -> list[Any]:
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise TypeError(f"{'/'.join(place)} must have string or integer keys, got {key!r}")
        step = hex(key) if isinstance(key, int) and abs(key) >= _EXACT else str(key)
        return [self.pack(key, place), self.pack(value, (*place, step))]

    def _add(self, tensor: Tensor, place: tuple[str, ...]) -> str:
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in DTYPES:
            kind = f"{tensor.dtype} {tensor.layout} on {tensor.device.type}"
            raise TypeError(f"{'/'.join(place)} must be a dense tensor of numbers, got {kind}")
        tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
        if (memory := tensor.untyped_storage().data_ptr()) in self._memory:
            tensor = tensor.clone()  # safetensors refuses two tensors on one memory
        self._memory.add(memory)
        name = path = "/".join(place).encode("utf-8", "backslashreplace").decode()
        while name in self.tensors:  # {"a": {"b": x}, "a/b": y}
            name = f"{path}#{len(self.tensors)}"
        self.tensors[name] = tensor
        return name


def _as_tensor(array: np.ndarray[Any, Any], place: tuple[str, ...]) -> Tensor:
    try:
        # torch shares neither read-only memory nor negative strides.
        is_shareable = array.flags.c_contiguous and array.flags.writeable
        return torch.from_numpy(array if is_shareable else array.copy(order="C"))
    except (TypeError, ValueError):
        where = "/".join(place)
        raise TypeError(f"{where} must be an array of numbers, got {array.dtype.str}") from None


def _unpack(packed: Any, tensors: Mapping[str, Tensor], used: set[str]) -> Any:
    match packed:
        case None | bool() | int() | float() | str():
            return packed
        case list():
            return [_unpack(item, tensors, used) for item in packed]
        case {"dict": list(items), **rest} if not rest:
            return dict(_unpack_item(item, tensors, used) for item in items)
        case {"int": str(digits), **rest} if not rest:
            return int(digits, 16)
        case {"float": str(bits), **rest} if not rest:
            return _double(bits)
        case {"tensor": str(name), **rest} if not rest:
            return _take(name, tensors, used)
        case {"array": str(name), **rest} if not rest:
            return _take(name, tensors, used).numpy()
    raise ValueError(f"it holds {str(packed)[:60]!r}, which has no meaning there")


def _unpack_item(item: Any, tensors: Mapping[str, Tensor], used: set[str]) -> tuple[Any, Any]:
    match item:
        case [str() | int() | {"int": str()} as key, value]:
            return _unpack(key, tensors, used), _unpack(value, tensors, used)
    raise ValueError(f"it holds {str(item)[:60]!r}, which is no key with a value")


def _double(bits: str) -> float:
    data = bytes.fromhex(bits)
    if len(data) != 8:
        raise ValueError(f"it holds a float of {len(data)} bytes")
    value: float = struct.unpack(">d", data)[0]
    return value


def _take(name: str, tensors: Mapping[str, Tensor], used: set[str]) -> Tensor:
    if name not in tensors or name in used:
        raise ValueError(f"it mentions the tensor {name!r}, which is not there or was taken")
    used.add(name)
    return tensors[name]
