"""Files that others made: whatever they hold, it is refused in one line and nothing runs."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

import clrl
from clrl import bundle, checkpoint, export, sealed
from clrl.agents import ContinualPPO, ContinualSAC
from clrl.cli import main
from clrl.run import Run
from tests.agents.conftest import make_agent
from tests.clrl import forgery
from tests.clrl.forgery import NOT_JSON, NOT_PLAIN, NOT_TENSORS, forge
from tests.clrl.test_train import PAIR, PPO

Change = Callable[[Path], None]
SECONDS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return clrl.train(PAIR, out=tmp_path_factory.mktemp("runs") / "pair", **PPO)


@pytest.fixture(scope="module")
def files(run: Run) -> dict[str, bytes]:
    return export.export(run, allow_forgetting=True)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    shutil.copytree(run.path, tmp_path / "in" / "run")
    return tmp_path / "in" / "run"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where a payload leaves its mark."""
    return tmp_path / "executed"


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(capsys: pytest.CaptureFixture[str], marker: Path, *arguments: str) -> str:
    """One line, status 2, in time, and nothing was executed."""
    with in_time(), pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert len(lines[0]) < 1000
    assert "CLRL_DEBUG" not in lines[0]  # it was meant for users
    assert not marker.exists()
    return lines[0]


# run.json


@pytest.mark.parametrize("how", NOT_PLAIN)
@pytest.mark.parametrize("name", ["run.json", "progress.csv", "retention.json", "tb", "videos"])
def test_what_is_no_plain_file_in_a_run_is_refused(
    how: str, name: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if how in ("terabyte", "folder") and name != "run.json":
        pytest.skip("a run may hold it")
    if (copy / name).is_dir():
        shutil.rmtree(copy / name)
    NOT_PLAIN[how](copy / name)
    assert name in refused(capsys, marker, "resume", str(copy))


def test_a_link_in_place_of_the_checkpoints_is_refused(
    copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rename(copy / "checkpoints", copy.parent / "elsewhere")
    (copy / "checkpoints").symlink_to(copy.parent / "elsewhere")
    assert "is a link" in refused(capsys, marker, "evaluate", str(copy))


@pytest.mark.parametrize("content", [*NOT_JSON, "pickle", "zip", "zip bomb"])
def test_a_run_file_that_is_no_run_is_refused(
    content: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {
        "pickle": forgery.pickled(marker),
        "zip": forgery.zipped(marker),
        "zip bomb": forgery.bomb(),
    }
    (copy / "run.json").write_bytes((NOT_JSON | others)[content])
    for command in ("play", "evaluate", "resume", "export"):
        out = ["--out", str(copy / "b")] if command == "export" else []
        assert "run.json" in refused(capsys, marker, command, str(copy), *out)


def _set(content: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split("/")
    for key in outer:
        content = content[int(key) if key.isdigit() else key]  # type: ignore[index]
    content[last] = value


SPAWN = {"args": ["mkdir", "MARKER"]}
SETTINGS: dict[str, tuple[str, Any]] = {
    "a skill that spawns": ("curriculum/skills", [{"id": "subprocess:Popen", **SPAWN}]),
    "a skill that calls": ("curriculum/skills", [{"id": "os:system", "command": "mkdir MARKER"}]),
    "a skill from C": ("curriculum/skills", [{"id": "posix:system", "command": "mkdir MARKER"}]),
    "a skill that is a builtin": ("curriculum/skills", [{"id": "builtins:exec"}]),
    "a skill that unpickles": ("curriculum/skills", [{"id": "torch:load", "f": "PICKLE"}]),
    "a skill of NumPy": ("curriculum/skills", [{"id": "numpy:load", "file": "PICKLE"}]),
    "a skill that is no class": ("curriculum/skills", [{"id": "clrl.cli:main"}]),
    "a skill in a zip": ("curriculum/skills", [{"id": "../evil.zip:Skill"}]),
    "a module without a name": ("curriculum/skills", [{"id": ":Skill"}]),
    "a relative module": ("curriculum/skills", [{"id": ".evil:Skill"}]),
    "a protection that spawns": ("protect", {"subprocess:Popen": SPAWN}),
    "a protection that calls": ("protect", {"os:system": {"command": "mkdir MARKER"}}),
    "a protection that unpickles": ("protect", {"torch:load": {"f": "PICKLE"}}),
    "protections in a list": ("protect", ["ewc"]),
    "options of another protection": ("protect", {"ewc": {"samples": 10**30}}),
    "an agent by module": ("agent", "subprocess:Popen"),
    "an agent that is a list": ("agent", ["ppo"]),
    "a policy by name": ("options/policy", "subprocess:Popen"),
    "an environment": ("options/env", "CartPole-v1"),
    "options that a run decides": ("options/_init_setup_model", True),
    "a class as text": ("options/policy_kwargs", {"activation_fn": "torch.nn.Tanh"}),
    "a network without end": ("options/policy_kwargs/net_arch", [10**9, 10**9]),
    "heads without end": ("options/policy_kwargs/max_skills", 10**9),
    "worlds without end": ("worlds", 2**62),
    "episodes that are text": ("episodes", "100"),
    "a device that is a number": ("device", 3),
    "a device that is a path": ("device", "/dev/zero"),
    "a learning rate that is text": ("options/learning_rate", "lambda _: __import__('os')"),
    "a seed that is a table": ("seed", {"a": 1}),
    "a curriculum that is a list": ("curriculum", []),
    "a name of many lines": ("curriculum/name", "a\nb"),
    "an unknown setting": ("callback", "os:system"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_others_run_nothing(
    name: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "payload").write_bytes(forgery.pickled(marker))
    content = json.loads((copy / "run.json").read_text())
    path, value = SETTINGS[name]
    text = json.dumps(value).replace("MARKER", str(marker))
    _set(content, path, json.loads(text.replace("PICKLE", str(tmp_path / "payload"))))
    (copy / "run.json").write_text(json.dumps(content))
    for command in ("evaluate", "resume"):
        refused(capsys, marker, command, str(copy))


def test_a_curriculum_name_leads_nowhere(run: Run, tmp_path: Path) -> None:
    from clrl.envs import Curriculum, make_skill

    skill = make_skill("arm-reach", name="../../up")
    assert Curriculum("../x", [skill]).names == ["../../up"]  # a name, never a path:
    result = clrl.train(Curriculum("../x", [skill]), out=tmp_path / "a" / "run", **PPO)
    assert {p.name for p in tmp_path.iterdir()} == {"a"}
    assert result.retention().skills == ("../../up",)


# checkpoints


@pytest.mark.parametrize("how", NOT_PLAIN)
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "state.safetensors"])
def test_what_is_no_plain_file_in_a_checkpoint_is_refused(
    how: str, name: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    NOT_PLAIN[how](checkpoint.steps(copy / "checkpoints")[0] / name)
    refused(capsys, marker, "evaluate", str(copy))


CONTENTS = ["pickle", "zip", "zip bomb", "torch"]


def _content(kind: str, marker: Path, tmp_path: Path) -> bytes:
    if kind == "torch":
        torch.save({"w": forgery.Payload(marker)}, tmp_path / "x.pt")
        return (tmp_path / "x.pt").read_bytes()
    if kind == "zip bomb":
        return forgery.bomb()
    return (forgery.pickled if kind == "pickle" else forgery.zipped)(marker)


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
    forge(checkpoint.steps(copy / "checkpoints")[-1], name, _content(kind, marker, tmp_path))
    for command in ("evaluate", "resume", "play"):
        assert f"{name} is not valid" in refused(capsys, marker, command, str(copy))


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_manifest_with_a_payload_is_refused(
    kind: str, copy: Path, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint.steps(copy / "checkpoints")[0]
    (folder / "manifest.json").write_bytes(_content(kind, marker, tmp_path))
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


# retention.json


@pytest.mark.parametrize("content", [*NOT_JSON, "pickle", "zip"])
def test_a_result_that_is_none_is_refused(
    content: str, copy: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"pickle": forgery.pickled(marker), "zip": forgery.zipped(marker)}
    (copy / "retention.json").write_bytes((NOT_JSON | others)[content])
    line = refused(capsys, marker, "export", str(copy), "--out", str(copy.parent / "b"))
    assert "retention.json" in line
    assert not (copy.parent / "b").exists()


# curriculum files

TABLES: dict[str, bytes] = {
    "toml that spawns": b'skills = [{id = "subprocess:Popen", args = ["mkdir", "MARKER"]}]',
    "toml that calls": b'skills = [{id = "os:system", command = "mkdir MARKER"}]',
    "toml without end": b"a = " + b"[" * 100_000,
    "deep toml keys": b".".join([b"a"] * 50_000) + b" = 1",
    "toml with a key twice": b"name = 'a'\nname = 'b'\nskills = []",
    "toml with NaN": b'skills = [{id = "arm-reach", horizon = nan}]',
    "toml with infinity": b'skills = [{id = "arm-reach", steps = inf}]',
    "toml with a huge integer": b'skills = [{id = "arm-reach", steps = ' + b"9" * 4000 + b"}]",
    "toml that is no text": b"\xff\xfe\x00",
    "toml with dates": b'skills = [{id = "arm-reach", name = 2020-01-01}]',
}


@pytest.mark.parametrize("content", [*TABLES, *NOT_JSON, "pickle", "zip"])
def test_a_curriculum_file_of_others_runs_nothing(
    content: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"pickle": forgery.pickled(marker), "zip": forgery.zipped(marker)}
    data = (TABLES | NOT_JSON | others)[content].replace(b"MARKER", str(marker).encode())
    for suffix in ("toml", "json"):
        file = tmp_path / f"mine.{suffix}"
        file.write_bytes(data)
        line = refused(capsys, marker, "train", str(file), "--out", str(tmp_path / "made"))
        assert str(file) in line
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("how", ["pipe", "endless device", "folder", "terabyte"])
def test_what_is_no_plain_curriculum_file_is_refused(
    how: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    NOT_PLAIN[how](tmp_path / "mine.toml")
    refused(capsys, marker, "train", str(tmp_path / "mine.toml"))


def test_a_model_file_that_never_ends_is_refused(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "ant.xml")
    skill = {"id": "Ant-v5", "env_kwargs": {"xml_file": str(tmp_path / "ant.xml")}}
    (tmp_path / "mine.json").write_text(json.dumps({"skills": [skill]}))
    assert "is not a plain file" in refused(capsys, marker, "train", str(tmp_path / "mine.json"))


# bundles


def sealed_bundle(files: dict[str, bytes], path: Path, **changed: bytes) -> Path:
    """A bundle whose sums all agree with altered files."""
    files = files | {name.replace("_", "."): data for name, data in changed.items()}
    if "policy_json" not in changed:
        contract = json.loads(files[bundle.CONTRACT])
        others = {n: sealed.summed(d)["sha256"] for n, d in files.items() if n != bundle.CONTRACT}
        files[bundle.CONTRACT] = json.dumps(contract | {"sha256": others}).encode()
    sealed.write(path, files, {"format": bundle.FORMAT})
    return path


@pytest.mark.parametrize("how", NOT_PLAIN)
@pytest.mark.parametrize("name", ["manifest.json", "policy.onnx", "policy.json", "golden.json"])
def test_what_is_no_plain_file_in_a_bundle_is_refused(
    how: str,
    name: str,
    files: dict[str, bytes],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = sealed_bundle(files, tmp_path / "in" / "bundle")
    NOT_PLAIN[how](path / name)
    assert name in refused(capsys, marker, "verify", str(path))


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize(
    "name", ["policy.onnx", "policy.json", "golden.json", "weights.safetensors"]
)
def test_a_bundle_with_a_payload_is_refused(
    name: str,
    kind: str,
    files: dict[str, bytes],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = {name.replace(".", "_"): _content(kind, marker, tmp_path)}
    path = sealed_bundle(files, tmp_path / "bundle", **changed)
    assert name in refused(capsys, marker, "verify", str(path))


@pytest.mark.parametrize("content", NOT_JSON)
@pytest.mark.parametrize("name", ["policy_json", "golden_json", "manifest.json"])
def test_a_bundle_that_is_no_json_is_refused(
    name: str,
    content: str,
    files: dict[str, bytes],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = {} if name == "manifest.json" else {name: NOT_JSON[content]}
    path = sealed_bundle(files, tmp_path / "bundle", **changed)
    if not changed:
        (path / name).write_bytes(NOT_JSON[content])
    refused(capsys, marker, "verify", str(path))


@pytest.mark.parametrize("content", NOT_TENSORS)
def test_a_bundle_with_lying_weights_is_refused(
    content: str,
    files: dict[str, bytes],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = {"weights_safetensors": NOT_TENSORS[content]}
    path = sealed_bundle(files, tmp_path / "bundle", **changed)
    assert "weights.safetensors has a header" in refused(capsys, marker, "verify", str(path))


def test_yaml_that_builds_objects_is_never_read(
    files: dict[str, bytes], tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"!!python/object/apply:os.mkdir ['{marker}']\n".encode()
    main(["verify", str(sealed_bundle(files, tmp_path / "bundle", leapp_yaml=text))])
    assert not marker.exists()


def _grown(model: Any, *nodes: Any, **tables: list[int]) -> None:
    """The observation by way of some nodes, which end in `grown`."""
    for name, shape in tables.items():
        size = int(torch.tensor(shape).prod())
        model.graph.initializer.append(
            helper.make_tensor(name, TensorProto.FLOAT, shape, bytes(4 * size), raw=True)
        )
    first = model.graph.node[0]
    first.input[0] = "grown"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])


def _node(operator: str, *inputs: str, out: str = "grown", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), [out], **attributes)


def _doubling(model: Any) -> None:
    names = ["observation", *(f"c{i}" for i in range(39)), "grown"]
    nodes = []
    for old, new in pairwise(names):
        nodes.append(_node("Tanh", old, out=f"{new}'"))
        nodes.append(_node("Concat", old, f"{new}'", out=new, axis=1))
    _grown(model, *nodes)


def _external(model: Any) -> None:
    table = model.graph.initializer[0]
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="/etc/passwd")
    table.ClearField("raw_data")


def _custom(model: Any) -> None:
    model.graph.node[0].domain = "evil.ops"
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))


def _function(model: Any) -> None:
    model.functions.append(helper.make_function("evil", "F", [], [], [], []))


def _width(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40


GRAPHS: dict[str, Callable[[Any], None]] = {
    "external data": _external,
    "a custom domain": _custom,
    "a custom operator": lambda m: setattr(m.graph.node[0], "op_type", "Evil"),
    "a local function": _function,
    "a subgraph": lambda m: m.graph.node[0].attribute.append(
        helper.make_attribute("body", helper.make_graph([], "b", [], []))
    ),
    "an input without end": _width,
    "tables that double": _doubling,
    "an outer sum": lambda m: _grown(m, _node("Add", "observation", "t"), t=[50_000, 1]),
    "a matrix as a row": lambda m: _grown(m, _node("Add", "t", "t"), t=[4, 4]),
    "an outer product": lambda m: _grown(m, _node("Gemm", "t", "u"), t=[9999, 1], u=[1, 9999]),
    "a turned observation": lambda m: _grown(
        m, _node("Gemm", "observation", "t", transA=1), t=[1, 9999]
    ),
    "rows of the observation": lambda m: _grown(m, _node("Gather", "observation", "skill")),
    "a node without inputs": lambda m: _grown(m, _node("Concat", axis=0)),
    "nodes without end": lambda m: _grown(m, *[_node("Tanh", "observation")] * 30_000),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_beyond_a_plain_policy_is_refused(
    name: str,
    files: dict[str, bytes],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = onnx.load_from_string(files[bundle.GRAPH])
    GRAPHS[name](model)
    path = sealed_bundle(files, tmp_path / "bundle", policy_onnx=model.SerializeToString())
    assert "policy.onnx" in refused(capsys, marker, "verify", str(path))


@pytest.mark.parametrize("tag", [b"\x08\x00", b"\x3a\x04\x0a\x02\x08\x00", b"\x80", b"\x3a\xff"])
def test_a_flood_of_fields_is_refused_in_time(
    tag: bytes,
    files: dict[str, bytes],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flood = tag * (2**23 // len(tag))
    path = sealed_bundle(files, tmp_path / "bundle", policy_onnx=flood)
    assert "policy.onnx" in refused(capsys, marker, "verify", str(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("skills", []),
        ("skills", {}),
        ("skills", [3]),
        ("skills", [{"name": "reach"}] * 2),
        ("format", "1"),
    ],
)
def test_a_contract_of_another_form_is_refused(
    key: str,
    value: Any,
    files: dict[str, bytes],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    contract = json.loads(files[bundle.CONTRACT]) | {key: value}
    changed = {"policy_json": json.dumps(contract).encode()}
    path = sealed_bundle(files, tmp_path / "bundle", **changed)
    refused(capsys, marker, "verify", str(path))


@pytest.mark.parametrize("name", ["../policy.onnx", "/etc/passwd", "a/b", ""])
def test_a_bundle_that_leads_out_is_refused(
    name: str,
    files: dict[str, bytes],
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = sealed_bundle(files, tmp_path / "bundle")
    manifest = json.loads((path / sealed.MANIFEST).read_text())
    del manifest["sha256"]
    manifest["files"][name] = sealed.summed(b"")
    (path / sealed.MANIFEST).write_bytes(sealed.seal(manifest))
    assert "does not belong" in refused(capsys, marker, "verify", str(path))


# Stable-Baselines3's own files


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_sb3s_files_are_loaded_for_those_who_trust_them_only(
    kind: str, tmp_path: Path, marker: Path
) -> None:
    agent = make_agent(kind)
    agent.save(tmp_path / "agent.zip")
    agent.policy.save(tmp_path / "policy.pt")
    for loader, file in ((type(agent), "agent.zip"), (type(agent.policy), "policy.pt")):
        for trust in ({}, {"trust_pickle": False}, {"trust_pickle": "yes"}):
            with pytest.raises(ValueError, match=r"can run any code .* trust_pickle=True"):
                loader.load(tmp_path / file, **trust)
    assert type(agent).load(tmp_path / "agent.zip", trust_pickle=True)


@pytest.mark.parametrize("kind", [ContinualPPO, ContinualSAC])
@pytest.mark.parametrize("make", [forgery.pickled, forgery.zipped])
def test_a_payload_in_an_sb3_file_does_not_run(
    kind: Any, make: Callable[[Path], bytes], tmp_path: Path, marker: Path
) -> None:
    (tmp_path / "agent.zip").write_bytes(make(marker))
    with pytest.raises(ValueError, match="trust_pickle=True"):
        kind.load(tmp_path / "agent.zip")
    assert not marker.exists()


def test_a_replay_buffer_is_loaded_for_those_who_trust_it_only(
    tmp_path: Path, marker: Path
) -> None:
    (tmp_path / "buffer.pkl").write_bytes(forgery.pickled(marker))
    agent = make_agent("sac")
    with pytest.raises(ValueError, match="trust_pickle=True"):
        agent.load_replay_buffer(tmp_path / "buffer.pkl")
    assert not marker.exists()


@pytest.mark.parametrize("command", ["play", "evaluate", "resume"])
def test_the_command_line_says_why_it_takes_no_sb3_file(
    command: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.zip").write_bytes(forgery.zipped(marker))
    line = refused(capsys, marker, command, str(tmp_path / "model.zip"))
    assert "it holds pickles" in line
    assert "trust_pickle=True" in line


def test_the_payload_works(marker: Path) -> None:
    """Where it is unpickled; or the tests above would show nothing."""
    pickle.loads(forgery.pickled(marker))
    assert marker.is_dir()


# Memory

BOMBS = """
import io, json, resource, sys
from contextlib import redirect_stderr
from clrl.cli import main
import clrl.run, clrl.trainer, clrl.measure, clrl.verify, onnxruntime
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
try:
    main(["evaluate", sys.argv[1], "--episodes", "4"])
except SystemExit:
    pass
for arguments in json.loads(sys.argv[2]):
    before, said = peak(), io.StringIO()
    try:
        with redirect_stderr(said):
            main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code
    print("BOMB", json.dumps([code, peak() - before, said.getvalue()]))
"""


def test_bombs_take_little_memory(
    run: Run, files: dict[str, bytes], tmp_path: Path, marker: Path
) -> None:
    """Each in megabytes, beside what an honest evaluation takes."""
    commands = []

    def bombed(name: str, change: Change) -> None:
        shutil.copytree(run.path, tmp_path / name)
        change(tmp_path / name)
        commands.append(["evaluate", str(tmp_path / name)])

    first = checkpoint.steps(run.checkpoints)[0].name
    state = Path("checkpoints") / first
    bombed("a", lambda p: forgery.sparse(p / "run.json"))
    bombed("b", lambda p: forgery.sparse(p / state / "state.safetensors"))
    bombed("c", lambda p: forge(p / state, "state.json", b"[" * 2**25))
    bombed("d", lambda p: forge(p / state, "state.json", b'{"a":' * 2**22))
    bombed("e", lambda p: (p / "run.json").write_bytes(b"[" * 2**22 + b"]" * 2**22))  # type: ignore[arg-type]
    for name in ("many dimensions", "offsets beyond the file", "a huge shape"):
        data = NOT_TENSORS[name]
        bombed(name, lambda p, data=data: forge(p / state, "state.safetensors", data))  # type: ignore[misc]
    for name in ("tables that double", "an outer product", "an input without end"):
        model = onnx.load_from_string(files[bundle.GRAPH])
        GRAPHS[name](model)
        data = model.SerializeToString()
        commands.append(["verify", str(sealed_bundle(files, tmp_path / name, policy_onnx=data))])
    flood = {"policy_onnx": b"\x08\x00" * 2**25}
    commands.append(["verify", str(sealed_bundle(files, tmp_path / "flood", **flood))])
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(run.path), json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    lines = [line[5:] for line in done.stdout.splitlines() if line.startswith("BOMB ")]
    assert len(lines) == len(commands)
    for command, line in zip(commands, lines, strict=True):
        code, megabytes, said = json.loads(line)
        assert code == 2, command
        assert said.count("\n") == 1
        assert megabytes < 300, (command, megabytes)
