"""Looks at ONNX and safetensors files as bytes, before any library is trusted with them.

Only graphs such as `clrl.onnx_graph` writes pass: operators of a short list, tables inside the
file, no subgraphs, no references to other files. Nothing a header claims is ever allocated.
"""

import json
from collections.abc import Iterator
from math import prod
from typing import Any

_OPERATORS = {"Add", "Clip", "Concat", "Elu", "Gather", "Gemm", "LayerNormalization", "LeakyRelu"}
_OPERATORS |= {"Max", "Min", "Mul", "Relu", "Sub", "Tanh"}
_HEADER_LIMIT = 2**20
# Field numbers of onnx.proto3.
_MODEL = {1, 2, 3, 4, 5, 6, 7, 8}  # version, producer, domain, docs, graph, opsets
_GRAPH = {1, 2, 5, 10, 11, 12}  # node, name, initializer, docs, inputs, outputs
_NODE = {1, 2, 3, 4, 5}  # input, output, name, operator, attribute
_ATTRIBUTE = {1, 2, 3, 20}  # name, f, i, type
_TENSOR = {1, 2, 8, 9}  # dims, type, name, raw bytes; 13 and 14 would point to other files
_FLOAT = 1

Field = tuple[int, Any]


def check_graph(data: bytes, name: str) -> None:
    """Refuse an ONNX file that is not a plain policy.

    Args:
        data: The file.
        name: For messages.

    Raises:
        ValueError: it is damaged, or has anything beyond the list; one line.
    """
    try:
        model = list(_fields(memoryview(data), _MODEL))
        graphs = [value for number, value in model if number == 7]
        if len(graphs) != 1:
            raise ValueError("it holds no single graph")
        for number, value in _fields(graphs[0], _GRAPH):
            if number == 1:
                _check_node(value)
            elif number == 5:
                _check_tensor(value)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{name} is not a graph this runtime takes: {error}") from None


def check_tensors(data: bytes, name: str) -> None:
    """Refuse a safetensors file whose header does not describe the file's very bytes.

    Raises:
        ValueError: its header is too long, not valid, or lies about sizes; one line.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_HEADER_LIMIT, len(data) - 8):
        raise ValueError(
            f"{name} has a header longer than the file or than {_HEADER_LIMIT:,} bytes"
        )
    try:
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        entries = sorted(header.values(), key=lambda entry: entry["data_offsets"])
        end = 0
        for entry in entries:
            start, stop = entry["data_offsets"]
            if entry["dtype"] != "F32" or start != end or stop - start != 4 * prod(entry["shape"]):
                raise ValueError
            end = stop
        if end != len(data) - 8 - length:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{name} has a header that does not describe its content") from None


def _check_node(node: memoryview) -> None:
    for number, value in _fields(node, _NODE):
        if number == 4 and (operator := bytes(value).decode()) not in _OPERATORS:
            raise ValueError(f"operator {operator!r}")
        if number == 5:
            list(_fields(value, _ATTRIBUTE))


def _check_tensor(tensor: memoryview) -> None:
    dims, kind, size = [], 0, 0
    for number, value in _fields(tensor, _TENSOR):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(_packed(value))
        elif number == 2:
            kind = value
        elif number == 9:
            size = len(value)
    if kind != _FLOAT or size != 4 * prod(dims):
        raise ValueError("a table whose header does not describe its content")


def _fields(data: memoryview, allowed: set[int]) -> Iterator[Field]:
    """Fields of a protobuf message: (number, int) or (number, bytes)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number not in allowed:
            raise ValueError(f"field {number}, which may lead out of the file")
        value: Any
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size = 4
            if kind == 2:
                size, at = _varint(data, at)
            elif kind != 5:
                raise ValueError("it is not protobuf")
            if size > len(data) - at:
                raise ValueError("it ends too early")
            value, at = data[at : at + size], at + size
        yield number, value


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("it is not protobuf")
