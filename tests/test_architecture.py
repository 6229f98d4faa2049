"""The shape of the house: who may import whom, what stays light, what a folder refuses."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "envs": {"clrl.envs"},
    "agents": {"clrl.agents"},
    "eval": {"clrl.envs", "clrl.eval"},
}


@pytest.mark.parametrize("folder", ALLOWED)
def test_dependency_arrows(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.split(".")[0] == "clrl":
                    package = ".".join(name.split(".")[:2])
                    assert package in ALLOWED[folder], f"{path.name} imports {name}"


@pytest.mark.parametrize(
    "code", ["import clrl", "import clrl.envs, clrl.agents, clrl.eval", "import clrl.cli"]
)
def test_importing_clrl_loads_neither_torch_nor_mujoco(code: str) -> None:
    check = f"{code}; import sys; print(sorted({{'torch', 'mujoco'}} & set(sys.modules)))"
    result = _python(check)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("command", ["--help", "train --help", "list"])
def test_help_loads_neither_torch_nor_mujoco(command: str) -> None:
    check = (
        "import sys, atexit, clrl.cli\n"
        "atexit.register(lambda: print('LOADED', sorted({'torch', 'mujoco'} & set(sys.modules))))\n"
        f"clrl.cli.main({command.split()!r})"
    )
    assert "LOADED []" in _python(check).stdout


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_root_folder_refuses_its_bare_name(folder: str) -> None:
    assert f"source of clrl.{folder}" in _python(f"import {folder}").stderr


@pytest.mark.parametrize(
    "path", [p for f in ("clrl", "envs", "agents", "eval") for p in (ROOT / f).glob("*.py")]
)
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
