"""What `policy.json` says: generated from the environments and the result, typed by nobody."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clrl.bundle import FORMAT
from clrl.config import versions
from clrl.envs.curriculum import Curriculum, Task
from clrl.envs.layout import layout_of
from clrl.onnx_graph import IR, OPSET
from clrl.run import Run
from clrl.voices import Voice

Contract = dict[str, Any]


def contract(
    run: Run, voices: Sequence[Voice], curriculum: Curriculum, gate: dict[str, Any]
) -> Contract:
    """Everything an integrator must know of a policy, but for the sums of the other files.

    Args:
        run: What was trained.
        voices: Who performs its skills and those of its variants.
        curriculum: The same skills.
        gate: How the export judged the run.

    Raises:
        ValueError: a skill's layout does not fit its space.
    """
    retention = voices[0].retention
    return {
        "format": FORMAT,
        "curriculum": curriculum.name,
        "agent": run.config.agent,
        "protections": run.config.methods,
        "seed": run.config.seed,
        "graph": {
            "opset": OPSET,
            "ir": IR,
            "inputs": {
                "observation": ["n", int(curriculum.observation_space.shape[0])],
                "skill": [],
            },
            "outputs": {"action": ["n", int(curriculum.action_space.shape[0])]},
            "inside": [
                "normaliser of each skill",
                "choice of head",
                "squashing",
                "scaling",
                "limits",
            ],
            "deterministic": True,
        },
        "skills": [_skill(voice, i) for i, voice in enumerate(voices)],
        "protocol": dict(retention.protocol),
        "metrics": dict(retention.metrics),
        "gate": gate,
        "versions": versions(),
    }


def _skill(voice: Voice, index: int) -> Contract:
    skill = voice.task
    dt = getattr(skill, "dt", None)
    return {
        "name": skill.name,
        "index": index,
        "id": skill.spec["id"],
        "options": {key: value for key, value in skill.spec.items() if key not in ("id", "name")},
        "control_hz": round(1.0 / dt, 6) if dt else None,
        "horizon": skill.horizon,
        "axes": getattr(skill, "axes", "as in the environment"),
        "observation": _parts(skill, "observation"),
        "action": _parts(skill, "action"),
        "measured": voice.measured,
        "bytes_of_variant": voice.size if voice.varies else None,
    }


def _parts(skill: Task, which: str) -> list[Contract]:
    """The layout with bounds, null where there are none."""
    space: Any = getattr(skill, f"{which}_space")
    parts, at = [], 0
    for part in layout_of(skill, which):
        here = slice(at, at := at + len(part.elements))
        entry = {
            "name": part.name,
            "index": [here.start, here.stop],
            "elements": list(part.elements),
            "unit": part.unit,
            "scale": part.scale,
            "text": part.text,
            "low": _finite(space.low[here]),
            "high": _finite(space.high[here]),
        }
        parts.append(entry | ({"stop": part.stop} if which == "action" else {"kind": part.kind}))
    return parts


def _finite(values: Any) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
