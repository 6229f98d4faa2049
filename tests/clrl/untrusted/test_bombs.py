"""Files that would fill the memory."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import onnx

from clrl import bundle, checkpoint
from clrl.run import Run
from tests.clrl import forgery
from tests.clrl.forgery import NOT_TENSORS, forge
from tests.clrl.untrusted.conftest import Change
from tests.clrl.untrusted.test_bundles import GRAPHS, sealed_bundle

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
