"""The description of a bundle for NVIDIA's LEAPP, as leapp 0.7 writes and reads it.

`leapp.yaml` describes `leapp.onnx`, the same policy with one input for each part of the
observation, since LEAPP wires a robot's signals by the kind of each input.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from clrl.bundle import LEAPP_GRAPH
from clrl.envs.curriculum import Curriculum
from clrl.envs.layout import Layout, Part, layout_of
from clrl.onnx_graph import OPSET

_NODE = "policy"


def shared_parts(curriculum: Curriculum) -> Layout:
    """The layout that all skills share, or one part for all numbers where they differ."""
    return _shared(curriculum, "observation")


def describe(curriculum: Curriculum, graph: bytes) -> bytes:
    """The YAML for the bytes of a graph with the inputs `shared_parts`."""
    skills: Sequence[Any] = curriculum.skills
    rates = {getattr(skill, "dt", None) for skill in skills}
    dt = rates.pop() if len(rates) == 1 else None
    inputs = [_tensor(p.name, (p,)) for p in shared_parts(curriculum)]
    index = {skill.name: i for i, skill in enumerate(skills)}
    inputs.append(
        {"name": "skill", "dtype": "int64", "shape": [], "type": "tensor", "index": index}
    )
    action = _tensor("action", _shared(curriculum, "action"))
    parameters = {
        "model_path": LEAPP_GRAPH,
        "md5sum": hashlib.md5(graph, usedforsecurity=False).hexdigest(),
        "sha256sum": hashlib.sha256(graph).hexdigest(),
        "backend": "onnx",
        "opset_version": OPSET,
    }
    model = {"inputs": inputs, "outputs": [action], "parameters": parameters}
    pipeline: dict[str, Any] = {
        "data_flow": {},
        "feedback_flow": {},
        "inputs": {_NODE: [tensor["name"] for tensor in inputs]},
        "outputs": {_NODE: ["action"]},
    }
    if dt:
        pipeline["configs"] = {"frequency": 1.0 / dt}
    content = {
        "models": {_NODE: model},
        "pipeline": pipeline,
        "system information": {"python version": platform.python_version(), "written by": "clrl"},
    }
    return ("\n".join(_lines(content)) + "\n").encode()


def _shared(curriculum: Curriculum, which: str) -> Layout:
    layouts = {layout_of(skill, which) for skill in curriculum}
    if len(layouts) == 1:
        return layouts.pop()
    size = int(getattr(curriculum, f"{which}_space").shape[0])
    return (Part(which, tuple(map(str, range(size))), ""),)


def _tensor(name: str, parts: Layout) -> dict[str, Any]:
    elements = [f"{part.name}_{element}" for part in parts for element in part.elements]
    tensor = {
        "name": name,
        "dtype": "float32",
        "shape": [1, len(elements)],
        "type": "tensor",
        "element_names": [elements],
        "unit": [part.unit for part in parts for _ in part.elements],
        "scale": [part.scale for part in parts for _ in part.elements],
    }
    return tensor | ({"kind": parts[0].kind} if parts[0].kind and len(parts) == 1 else {})


def _lines(content: Mapping[str, Any], indent: int = 0) -> list[str]:
    """Block mappings of JSON values, which YAML takes as they are."""
    lines, space = [], " " * indent
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{space}{key}:", *_lines(value, indent + 2)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{space}{key}:", *(f"{space}- {json.dumps(entry)}" for entry in value)]
        else:
            lines.append(f"{space}{key}: {json.dumps(value)}")
    return lines
