"""The wheel, built from the sdist, holds the four packages and runs away from the checkout."""

import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # without --wheel or --sdist: the sdist is built first, and the wheel from the sdist
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    assert list(folder.glob("clrl-*.tar.gz"))
    return next(folder.glob("clrl-*.whl"))


def test_the_wheel_holds_four_packages_and_the_scene(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if not name.startswith("clrl-")} == {"clrl"}
    for name in ("cli.py", "envs/arm.py", "agents/ppo.py", "eval/metrics.py", "py.typed"):
        assert f"clrl/{name}" in names
    assert "clrl/envs/assets/arm.xml" in names


def test_a_robot_needs_no_trainer(wheel: Path) -> None:
    """Requirements of clrl[deploy], as pip reads them from the wheel."""
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    found = [Requirement(v) for v in message_from_string(text).get_all("Requires-Dist", [])]
    needed = {
        extra: {r.name for r in found if r.marker is None or r.marker.evaluate({"extra": extra})}
        for extra in ("", "deploy", "train")
    }
    assert needed[""] == {"numpy"}
    assert needed["deploy"] == {"numpy", "onnxruntime"}
    assert {"torch", "stable-baselines3", "mujoco"} <= needed["train"]


def test_the_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True)
    code = (
        "import clrl, clrl.cli, gymnasium as gym;"
        f"assert clrl.__file__.startswith({str(site)!r});"
        "env = gym.make('clrl/arm-push-v0'); env.reset(seed=0);"
        "clrl.cli.main(['train', 'arm-reach', '--steps-per-skill', '200', '--out', 'run'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "average performance" in result.stdout
