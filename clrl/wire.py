"""Looks at ONNX and safetensors files as bytes, before any library is trusted with them.

Only graphs such as `clrl.onnx_graph` writes pass: operators of a short list, tables inside the
file, no subgraphs, no references to other files, and one row of numbers that passes from table to
table, so that nothing in them grows. Nothing a header claims is ever allocated.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from clrl.envs.untrusted import parse_json

_OPERATORS = {"Add", "Clip", "Concat", "Elu", "Gather", "Gemm", "LayerNormalization", "LeakyRelu"}
_OPERATORS |= {"Max", "Min", "Mul", "Relu", "Sub", "Tanh"}
_ATTRIBUTES = {"axis", "alpha", "beta", "epsilon", "transB"}
_HEADER_LIMIT = 2**20
_FIELD_LIMIT = 100_000  # of a graph, whose policy of 20 skills has a few hundred
_DIMENSIONS = 8
_LARGEST = 2**40  # of a dimension
# Field numbers of onnx.proto3.
_MODEL = {1, 2, 3, 4, 5, 6, 7, 8}  # version, producer, domain, docs, graph, opsets
_GRAPH = {1, 2, 5, 10, 11, 12}  # node, name, initializer, docs, inputs, outputs
_NODE = {1, 2, 3, 4, 5}  # input, output, name, operator, attribute
_ATTRIBUTE = {1, 2, 3, 20}  # name, f, i, type
_TENSOR = {1, 2, 8, 9}  # dims, type, name, raw bytes; 13 and 14 would point to other files
_INPUT = {1, 2, 3}  # name, type, docs
_FLOAT, _INT64 = 1, 7
_SKILL = "skill"  # the input that chooses rows of tables

Field = tuple[int, Any]
Shape = list[int]


def check_graph(data: bytes, name: str) -> None:
    """Refuse an ONNX file that is not a plain policy.

    Args:
        data: The file.
        name: For messages.

    Raises:
        ValueError: it is damaged, or has anything beyond the list; one line.
    """
    reader = _Reader()
    try:
        graphs = [v for number, v in reader.fields(memoryview(data), _MODEL) if number == 7]
        if len(graphs) != 1:
            raise ValueError("it holds no single graph")
        for number, value in reader.fields(graphs[0], _GRAPH):
            if number == 5:
                reader.table(value)
            elif number == 11:
                reader.inputs |= {_text(v) for n, v in reader.fields(value, _INPUT) if n == 1}
        for number, value in reader.fields(graphs[0], _GRAPH):
            if number == 1:
                reader.node(value)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{name} is not a graph this runtime takes: {error}") from None


def check_tensors(
    data: bytes, name: str, *, dtypes: Container[str] | None = None, limit: int = _HEADER_LIMIT
) -> None:
    """Refuse a safetensors file whose header does not describe the file's very bytes.

    Args:
        data: The file.
        name: For messages.
        dtypes: What types its tensors may have, as safetensors calls them; any by default.
        limit: Most bytes of the header.

    Raises:
        ValueError: its header is too long, not valid, or lies about sizes; one line.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(limit, len(data) - 8):
        raise ValueError(f"{name} has a header longer than the file or than {limit:,} bytes")
    try:
        header = parse_json(bytes(data[8 : 8 + length]).rstrip(b" "))
        header.pop("__metadata__", None)
        entries = sorted(header.values(), key=lambda entry: entry["data_offsets"])
        end = 0
        for entry in entries:
            start, stop = entry["data_offsets"]
            if (dtypes is not None and entry["dtype"] not in dtypes) or start != end:
                raise ValueError
            if stop - start != _item_size(entry["dtype"]) * _numbers(entry["shape"]):
                raise ValueError
            end = stop
        if end != len(data) - 8 - length:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{name} has a header that does not describe its content") from None


def _item_size(dtype: str) -> int:
    """Bytes of a number: of BOOL, U8, I64, BF16, F8_E4M3, C64 and their like."""
    found = re.fullmatch(r"BOOL|(?:[UIFC]|BF)(8|16|32|64)(?:_\w+)?", dtype)
    if not found:
        raise ValueError
    return int(found[1] or 8) // 8


def _numbers(shape: Shape) -> int:
    if len(shape) > _DIMENSIONS or not all(type(n) is int and 0 <= n < _LARGEST for n in shape):
        raise ValueError("a table of an impossible shape")
    return prod(shape)


@dataclass
class _Reader:
    """What is known of a graph while its parts are read.

    Attributes:
        tables: Shape of each table.
        choices: Names of tables that say which row of another table a skill takes.
        indices: Names of what may choose a row: the input, and what it takes of `choices`.
        rows: Shape of what each `Gather` takes of a table for one skill.
        inputs: Names of the graph's inputs.
        flow: Names of results, which have one row each as the inputs have.
        left: Fields that may still be read.
    """

    tables: dict[str, Shape] = field(default_factory=dict)
    choices: set[str] = field(default_factory=set)
    indices: set[str] = field(default_factory=lambda: {_SKILL})
    rows: dict[str, Shape] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    flow: set[str] = field(default_factory=set)
    left: int = _FIELD_LIMIT

    def table(self, tensor: memoryview) -> None:
        """Take note of an initializer."""
        shape: Shape = []
        kind, size, name = 0, 0, ""
        for number, value in self.fields(tensor, _TENSOR):
            if number == 1:
                shape += [value] if isinstance(value, int) else _packed(value)
            elif number == 2:
                kind = value
            elif number == 8:
                name = _text(value)
            else:
                size = len(value)
        is_choice = kind == _INT64 and len(shape) == 1
        if not (kind == _FLOAT or is_choice) or size != (4 + 4 * is_choice) * _numbers(shape):
            raise ValueError("a table whose header does not describe its content")
        if is_choice:
            self.choices.add(name)
        else:
            self.tables[name] = shape

    def node(self, node: memoryview) -> None:
        """Take note of a node whose result is no larger than what goes into it."""
        inputs: list[str] = []
        outputs: list[str] = []
        operator = ""
        for number, value in self.fields(node, _NODE):
            if number == 5:
                self._attribute(value)
            elif number == 1:
                inputs.append(_text(value))
            elif number == 2:
                outputs.append(_text(value))
            elif number == 4:
                operator = _text(value)
        if operator not in _OPERATORS:
            raise ValueError(f"operator {operator!r}")
        if operator == "Gather":
            table, index = inputs
            self._gather(table, index, outputs)
            return
        self._check_flow(operator, inputs)
        self.flow |= set(outputs)

    def _gather(self, table: str, index: str, outputs: list[str]) -> None:
        if index == _SKILL and table in self.choices:
            self.indices |= set(outputs)
        elif index in self.indices and table in self.tables:
            self.rows |= dict.fromkeys(outputs, self.tables[table][1:])
        else:
            raise ValueError("a Gather that takes no table's row of a skill")

    def _attribute(self, attribute: memoryview) -> None:
        for number, value in self.fields(attribute, _ATTRIBUTE):
            if number == 1 and _text(value) not in _ATTRIBUTES:
                raise ValueError(f"attribute {_text(value)!r}")

    def _check_flow(self, operator: str, inputs: list[str]) -> None:
        """The first input is the row that flows, and only matrices change its width."""
        joins = operator == "Concat"
        flowing = inputs if joins else inputs[:1]
        known = self.inputs if joins else self.inputs | self.flow
        if not flowing or not known.issuperset(flowing) or len(set(flowing)) < len(flowing):
            raise ValueError(f"a {operator} of something else than the observation")
        for place, name in enumerate(inputs[len(flowing) :]):
            shape = self.tables.get(name) or self.rows.get(name)
            if name not in self.tables and name not in self.rows:
                raise ValueError(f"a {operator} with something else than a table")
            is_matrix = operator == "Gemm" and place == 0
            if shape and (len(shape) != 2 if is_matrix else prod(shape[:-1]) != 1):
                raise ValueError(f"a {operator} with a table that has more than one row")

    def fields(self, data: memoryview, allowed: set[int]) -> Iterator[Field]:
        """Fields of a protobuf message: (number, int) or (number, bytes)."""
        at = 0
        while at < len(data):
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"more than {_FIELD_LIMIT:,} fields")
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


def _text(value: memoryview) -> str:
    if len(value) > 1000:
        raise ValueError("a name of more than 1,000 bytes")
    return bytes(value).decode()


def _packed(data: memoryview) -> Shape:
    shape: Shape = []
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        shape.append(value)
        if len(shape) > _DIMENSIONS:
            raise ValueError("a table of an impossible shape")
    return shape


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("it is not protobuf")
