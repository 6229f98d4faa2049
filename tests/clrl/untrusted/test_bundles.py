"""Bundles that others made."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from clrl import bundle, deploy, sealed
from clrl.bundle import BundleError
from clrl.cli import main
from clrl.verify import verify
from tests.clrl import forgery
from tests.clrl.forgery import NOT_JSON, NOT_PLAIN, NOT_TENSORS
from tests.clrl.untrusted.conftest import CONTENTS, content_of, refused


def sealed_bundle(files: dict[str, bytes], path: Path, **changed: bytes) -> Path:
    """A bundle whose sums all agree with altered files."""
    files = files | {name.replace("_", "."): data for name, data in changed.items()}
    if "policy_json" not in changed:
        contract = json.loads(files[bundle.CONTRACT])
        others = {n: sealed.summed(d)["sha256"] for n, d in files.items() if n != bundle.CONTRACT}
        files[bundle.CONTRACT] = json.dumps(contract | {"sha256": others}).encode()
    sealed.write(path, files, {"format": bundle.FORMAT})
    return path


@pytest.fixture
def whole(files: dict[str, bytes], tmp_path: Path) -> Path:
    return sealed_bundle(files, tmp_path / "bundle")


@pytest.mark.parametrize("name", [*bundle.FILES, sealed.MANIFEST])
@pytest.mark.parametrize("how", ["flip", "cut", "grow", "remove", "link"])
def test_every_tampered_file_is_refused(whole: Path, name: str, how: str) -> None:
    file = whole / name
    data = bytearray(file.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif how == "cut":
        file.write_bytes(data[:-1])
    elif how == "grow":
        file.write_bytes(data + b" ")
    else:
        file.unlink()
        if how == "link":
            (whole.parent / "elsewhere").write_bytes(data)
            file.symlink_to(whole.parent / "elsewhere")
    for reader in (verify, deploy.load):
        with pytest.raises(BundleError, match="do not use it") as error:
            reader(whole)
        assert name in str(error.value) or name == sealed.MANIFEST


def test_an_extra_file_is_refused(whole: Path) -> None:
    (whole / "notes.txt").write_text("x")
    with pytest.raises(BundleError, match=r"'notes.txt' does not belong"):
        verify(whole)


def test_an_oversized_file_is_not_read(whole: Path) -> None:
    forgery.sparse(whole / sealed.MANIFEST)
    with pytest.raises(BundleError, match=r"manifest.json is larger than"):
        verify(whole)


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
    changed = {name.replace(".", "_"): content_of(kind, marker, tmp_path)}
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


def _external(model: Any, place: str) -> None:
    table = model.graph.initializer[0]
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value=place)
    table.ClearField("raw_data")


def _custom(model: Any) -> None:
    model.graph.node[0].domain = "evil.ops"
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))


def _function(model: Any) -> None:
    model.functions.append(helper.make_function("evil", "F", [], [], [], []))


def _width(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40


GRAPHS: dict[str, Callable[[Any], None]] = {
    "external data": lambda m: _external(m, "/etc/passwd"),
    "external data by a path": lambda m: _external(m, "../../etc/passwd"),
    "a shape that lies": lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40),
    "a custom domain": _custom,
    "an operator beyond the list": lambda m: setattr(m.graph.node[0], "op_type", "ConstantOfShape"),
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
    narrower = name == "an input without end"  # than its weights, which the runtime finds
    told = "cannot be run" if narrower else "is not a graph this runtime takes"
    with pytest.raises(BundleError, match=f"policy.onnx {told}"):
        deploy.load(path)


def test_another_network_differs_from_the_golden_pairs(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    model = onnx.load_from_string(files[bundle.GRAPH])
    table = next(t for t in model.graph.initializer if t.name == "head.bias")
    table.raw_data = np.full(table.dims, 0.2, np.float32).tobytes()
    path = sealed_bundle(files, tmp_path / "bundle", policy_onnx=model.SerializeToString())
    with pytest.raises(BundleError, match="differs from its golden pairs"):
        verify(path)


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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("index", 7, "has no skill 'press'"),
        ("observation", [], "policy.json is not valid"),
        ("control_hz", "fast", "policy.json is not valid"),
    ],
)
def test_a_contract_that_does_not_fit_the_graph_is_refused(
    key: str, value: Any, message: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    contract = json.loads(files[bundle.CONTRACT])
    contract["skills"][1][key] = value
    changed = {"policy_json": json.dumps(contract).encode()}
    with pytest.raises(BundleError, match=message):
        deploy.load(sealed_bundle(files, tmp_path / "bundle", **changed))


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
