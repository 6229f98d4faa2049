"""`clrl export`: from a finished run to a bundle, unless it forgot what it had learned."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from safetensors.numpy import save as save_tensors

from clrl import bundle, golden, leapp, onnx_graph, sealed
from clrl.card import card
from clrl.config import dumps
from clrl.contract import contract
from clrl.eval.retention import Retention
from clrl.run import Run
from clrl.voices import joint_curriculum, voices_of

MIN_RETENTION = 0.8
LEARNED = 0.5  # success that counts as learned, as the metric `retention` has it
Pairs = Mapping[str, Mapping[str, NDArray[Any]]]


class ForgottenError(ValueError):
    """An earlier skill kept less than was asked for."""


def export(
    run: Run,
    variants: Sequence[Run] = (),
    *,
    min_retention: float = MIN_RETENTION,
    allow_forgetting: bool = False,
) -> dict[str, bytes]:
    """The files of a bundle with the agent at the end of a finished run.

    Args:
        run: What was trained.
        variants: Runs that `clrl adapt` made from it, whose new skills go along; each brings its
            own layers, and the run's skills stay as they are to the bit.
        min_retention: Least share of the success it was learned with that each earlier skill must
            have kept, in [0, 1].
        allow_forgetting: Export all the same, and write into the bundle that it was so.

    Returns:
        Name and content of each file; `write` puts them on the disk.

    Raises:
        ValueError: the run is not finished, forgot a skill, or cannot be expressed in ONNX.
    """
    voices = voices_of(run, variants)
    gate = judge(run.retention(), min_retention, allow_forgetting)
    curriculum = joint_curriculum(run, voices)
    pairs = golden.collect(voices, curriculum)
    model = onnx_graph.build(voices, curriculum)
    parts = leapp.shared_parts(curriculum)
    by_part = onnx_graph.build(voices, curriculum, parts).SerializeToString()
    _check(model, pairs, curriculum.names)
    facts = contract(run, voices, curriculum, gate)
    files = {
        bundle.GRAPH: model.SerializeToString(),
        bundle.GOLDEN: _golden_json(pairs),
        bundle.WEIGHTS: save_tensors(onnx_graph.weights(model)),
        bundle.LEAPP: leapp.describe(curriculum, by_part),
        bundle.LEAPP_GRAPH: by_part,
        bundle.CARD: card(facts).encode(),
    }
    sums = {name: sealed.summed(data)["sha256"] for name, data in files.items()}
    return files | {bundle.CONTRACT: dumps(facts | {"sha256": sums}).encode()}


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a bundle, whole or not at all.

    Raises:
        FileExistsError: there is something at that path.
        OSError: it cannot be written.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; choose another place or remove it")
    sealed.write(path, files, {"format": bundle.FORMAT})


def judge(retention: Retention, least: float, allow: bool) -> dict[str, Any]:
    """Whether earlier skills were kept, for `policy.json`.

    A skill counts if it was learned, with success of 0.5 or more at its end.

    Raises:
        ValueError: one was forgotten and that is not allowed; or `least` is out of range.
    """
    if not 0.0 <= least <= 1.0:
        raise ValueError(f"--min-retention must be in [0, 1], got {least}")
    kept: dict[str, float | None] = {}
    for j, name in enumerate(retention.skills[:-1]):
        learned = retention.success[j + 1][j]
        kept[name] = retention.success[-1][j] / learned if learned >= LEARNED else None
    forgotten = {name: r for name, r in kept.items() if r is not None and r < least}
    if forgotten and not allow:
        worst = ", ".join(f"{name} {r:.2f}" for name, r in forgotten.items())
        raise ForgottenError(
            f"not exported: retention under {least:g} ({worst}); train it longer or protect it, or "
            "give --allow-forgetting"
        )
    return {
        "min_retention": least,
        "retention": kept,
        "forgotten": list(forgotten),
        "allow_forgetting": allow,
    }


def _check(model: ModelProto, pairs: Pairs, skills: list[str]) -> None:
    """Nothing leaves that differs from the agent."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    size = session.get_inputs()[0].shape[1]
    for index, name in enumerate(skills):
        seen, wanted = pairs[name]["observation"], pairs[name]["action"]
        padded = np.pad(seen, ((0, 0), (0, size - seen.shape[1]))).astype(np.float32)
        got = session.run(None, {"observation": padded, "skill": np.array(index)})[0]
        difference = float(np.abs(got[:, : wanted.shape[1]] - wanted).max())
        if not difference <= golden.TOLERANCE:
            raise ValueError(
                f"the graph differs from the agent in skill {name!r}: {difference:.1e}"
            )


def _golden_json(pairs: Pairs) -> bytes:
    """JSON whose numbers are float32 to the last bit."""
    content = {
        "tolerance": golden.TOLERANCE,
        "skills": {
            name: {key: rows.astype(np.float64).tolist() for key, rows in found.items()}
            for name, found in pairs.items()
        },
    }
    return (json.dumps(content, allow_nan=False) + "\n").encode()
