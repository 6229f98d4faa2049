"""What this machine has, what is missing, and how to install it."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from clrl.envs.opengl import ADVICE, choose_backend

_NEEDED = ("mujoco", "torch", "stable_baselines3", "gymnasium", "safetensors", "numpy")
_EXTRAS = {
    "metaworld": "metaworld",
    "mujoco-warp": "gpu",
    "warp-lang": "gpu",
    "onnx": "export",
    "onnxruntime": "deploy",
    "ray": "sweep",
}
_DRAW = (
    "import mujoco; m = mujoco.MjModel.from_xml_string('<mujoco/>');"
    "mujoco.Renderer(m, 8, 8).close()"
)

Finding = dict[str, Any]


def examine() -> list[Finding]:
    """One finding for each thing: `name`, `ok`, `optional`, `detail`, and `fix` where not ok."""
    python = platform.python_version()
    findings = [_finding("python", sys.version_info >= (3, 11), python, "install Python 3.11+")]
    findings += [_package(name, "pip install 'clrl[train]'") for name in _NEEDED]
    if findings[1]["detail"] == "4.0.0":
        findings[1] |= {"ok": False, "fix": "4.0.0 has a solver bug: pip install mujoco==3.17.0"}
    findings += [
        _package(name, f"pip install 'clrl[{extra}]'", optional=True)
        for name, extra in _EXTRAS.items()
    ]
    findings.append(_finding("cpu", True, f"{os.cpu_count()} cores, physics on mujoco.batch", ""))
    findings.append(_cuda())
    findings.append(_gpu())
    findings.append(_renderer())
    return findings


def show(findings: list[Finding]) -> str:
    """A table a person reads at a glance."""
    lines = []
    for finding in findings:
        mark = "ok" if finding["ok"] else ("-" if finding["optional"] else "MISSING")
        fix = "" if finding["ok"] else f"   {finding['fix']}"
        lines.append(f"{mark:8}{finding['name']:19}{finding['detail']}{fix}")
    return "\n".join(lines)


def _finding(name: str, ok: bool, detail: str, fix: str, optional: bool = False) -> Finding:
    return {"name": name, "ok": ok, "optional": optional, "detail": detail, "fix": fix}


def _package(name: str, fix: str, optional: bool = False) -> Finding:
    try:
        return _finding(name, True, version(name), "", optional)
    except PackageNotFoundError:
        return _finding(name, False, "not installed", fix, optional)


def _cuda() -> Finding:
    if find_spec("torch") is None:
        return _finding("cuda", False, "no torch to ask", "not needed", optional=True)
    import torch

    if not torch.cuda.is_available():
        return _finding("cuda", False, "no device", "not needed", optional=True)
    return _finding("cuda", True, torch.cuda.get_device_name(0), "", optional=True)


def _gpu() -> Finding:
    from clrl.envs.world import gpu_trouble

    trouble = gpu_trouble()
    detail = "no worlds on a GPU" if trouble else "worlds run on mujoco_warp"
    return _finding("gpu", not trouble, detail, trouble, optional=True)


def _renderer() -> Finding:
    given = os.environ.get("MUJOCO_GL")
    choose_backend()
    backend = os.environ.get("MUJOCO_GL", "glfw")
    own = "" if backend in (given, "glfw") else f", in scripts of yours with MUJOCO_GL={backend}"
    # In a process of its own: some drivers abort instead of raising.
    drawn = subprocess.run([sys.executable, "-c", _DRAW], capture_output=True, check=False)
    if drawn.returncode == 0:
        return _finding("renderer", True, backend + own, "", optional=True)
    return _finding("renderer", False, f"{backend} does not draw", ADVICE, optional=True)
