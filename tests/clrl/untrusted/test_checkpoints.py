"""Checkpoints that others made."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clrl import checkpoint, sealed
from tests.clrl.forgery import NOT_JSON, NOT_PLAIN, NOT_TENSORS, forge
from tests.clrl.untrusted.conftest import CONTENTS, content_of, refused


@pytest.mark.parametrize("how", NOT_PLAIN)
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "state.safetensors"])
def test_what_is_no_plain_file_in_a_checkpoint_is_refused(
    how: str, name: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    NOT_PLAIN[how](checkpoint.steps(copy / "checkpoints")[0] / name)
    refused(capsys, marker, "evaluate", str(copy))


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_forged_checkpoint_with_a_payload_is_refused(
    kind: str,
    name: str,
    copy: Path,
    marker: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forge(checkpoint.steps(copy / "checkpoints")[-1], name, content_of(kind, marker, tmp_path))
    for command in ("evaluate", "resume", "play"):
        assert f"{name} is not valid" in refused(capsys, marker, command, str(copy))


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_manifest_with_a_payload_is_refused(
    kind: str, copy: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint.steps(copy / "checkpoints")[0]
    (folder / "manifest.json").write_bytes(content_of(kind, marker, tmp_path))
    assert "manifest.json is not valid" in refused(capsys, marker, "evaluate", str(copy))


@pytest.mark.parametrize("content", NOT_TENSORS)
def test_a_lying_safetensors_header_is_refused(
    content: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint.steps(copy / "checkpoints")[0]
    forge(folder, "state.safetensors", NOT_TENSORS[content])
    assert "state.safetensors is not valid" in refused(capsys, marker, "evaluate", str(copy))


@pytest.mark.parametrize("content", NOT_JSON)
def test_a_state_that_is_no_json_is_refused(
    content: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(checkpoint.steps(copy / "checkpoints")[0], "state.json", NOT_JSON[content])
    assert "state.json is not valid" in refused(capsys, marker, "evaluate", str(copy))


@pytest.mark.parametrize(
    "files",
    [
        {"../../../../etc/passwd": {"bytes": 1, "sha256": ""}},
        {"state.json": 1, "state.safetensors": [1]},
        {"state.json": None, "state.safetensors": None, "evil.pkl": None},
        [],
        {},
    ],
)
def test_a_manifest_of_other_files_is_refused(
    files: Any, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint.steps(copy / "checkpoints")[0]
    manifest = {"format": 1, "info": {"final": True, "skills": []}, "files": files}
    (folder / "manifest.json").write_bytes(sealed.seal(manifest))
    refused(capsys, marker, "evaluate", str(copy))


@pytest.mark.parametrize("info", [None, [], 3, {}, {"final": 1}, {"identity": "x", "final": True}])
def test_a_manifest_that_says_nothing_is_refused(
    info: Any, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint.steps(copy / "checkpoints")[0]
    manifest = json.loads((folder / "manifest.json").read_text()) | {"info": info}
    del manifest["sha256"]
    (folder / "manifest.json").write_bytes(sealed.seal(manifest))
    refused(capsys, marker, "evaluate", str(copy))


def _lie(state: dict[str, Any], what: str) -> None:
    agent, random = state["agent"], state["agent"]["random"]
    moments = next(iter(agent["optimizers"].values()))["state"]
    if what == "moments that are too short":
        for moment in moments.values():
            moment["exp_avg"] = moment["exp_avg"].flatten()[:1]
    elif what == "a generator that reads past its keys":
        random["numpy"][2] = 10**6
    elif what == "keys of another size":
        random["numpy"][1] = random["numpy"][1][:3]
    elif what == "torch's generator in pieces":
        random["torch"] = random["torch"][:5]
    elif what == "an action generator of another kind":
        random["action_space"] = {"bit_generator": "MT19937", "state": {}}
    elif what == "settings of the optimiser":
        next(iter(agent["optimizers"].values()))["param_groups"][0]["lr"] = "1"
    elif what == "a method by another name":
        del agent["plain"]["num_timesteps"]
        agent["plain"]["predict"] = 3
    elif what == "skills that are no names":
        agent["plain"]["skills"] = [3]
    elif what == "heads of another curriculum":
        agent["plain"]["skills"] = ["press", "reach"]
    elif what == "no weights":
        agent["policy"] = {}
    elif what == "weights of another shape":
        name = next(iter(agent["policy"]))
        agent["policy"][name] = agent["policy"][name][:1]
    elif what == "weights that are no numbers":
        name = next(iter(agent["policy"]))
        agent["policy"][name] = agent["policy"][name] * float("nan")
    elif what == "other protections":
        agent["protections"] = agent["protections"][:1]
    elif what == "protections that are text":
        agent["protections"] = ["a", "b", "c"]
    elif what == "a reservoir that says more":
        agent["protections"][2]["reservoirs"][0]["seen"] = 10**9
        agent["protections"][2]["reservoirs"][0]["capacity"] = 10**9
    elif what == "a position beyond the end":
        state["position"]["skill"] = 99
    elif what == "a position of text":
        state["position"]["ends"] = "ab"
    elif what == "a matrix of another size":
        state["position"]["successes"] = [[1]]
    elif what == "no position":
        state["position"] = None
    elif what == "no agent":
        state["agent"] = None


LIES = [
    "moments that are too short",
    "a generator that reads past its keys",
    "keys of another size",
    "torch's generator in pieces",
    "an action generator of another kind",
    "settings of the optimiser",
    "a method by another name",
    "skills that are no names",
    "heads of another curriculum",
    "no weights",
    "weights of another shape",
    "weights that are no numbers",
    "other protections",
    "protections that are text",
    "a reservoir that says more",
    "a position beyond the end",
    "a position of text",
    "a matrix of another size",
    "no position",
    "no agent",
]


@pytest.mark.parametrize("what", LIES)
def test_a_state_that_lies_is_refused(
    what: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its sums right, as its author would have them."""
    path = checkpoint.steps(copy / "checkpoints")[-1]
    state, info = checkpoint.read(path)
    _lie(state, what)
    shutil.rmtree(path)
    checkpoint.write(path, state, info)
    refused(capsys, marker, "resume", str(copy))
