"""`make bench-gpu` does what it says, on Warp's CPU device in the GPU's place."""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mujoco_warp")
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PARTS


@pytest.mark.slow
def test_its_parts_give_their_figures(parts: Any) -> None:
    options = Namespace(device="cpu", quick=True, worlds=[4])
    assert set(parts) == {
        *("tests", "updates", "agreement", "resumption"),
        *("throughput", "evaluation", "learning", "training"),
    }
    assert max(parts["agreement"](options)["arm-reach"]["observation"]) < 1e-3
    row = parts["throughput"](options)["arm-push"]["gpu"][0]
    assert row["worlds"] == 4
    assert row["steps_per_second"] > 0
    for curriculum in parts["evaluation"](options).values():
        assert curriculum["gpu_returns"] == pytest.approx(curriculum["cpu_returns"], rel=1e-2)
    for rows in parts["learning"](options).values():
        assert [row["worlds"] for row in rows] == [4]
        assert rows[0]["steps_per_second"] > 0
    assert parts["training"](options)["cost"]["env_steps"] >= 512


@pytest.mark.slow
def test_a_part_that_fails_is_told_and_the_next_one_runs(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--quick", "--worlds", "0", "--out", str(out)]
    command = [sys.executable, str(SCRIPT), *arguments, "--parts", "throughput", "updates"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(out.read_text())
    assert done.returncode == 1
    assert report["machine"]["gpu"] is None
    assert "a world needs n >= 1 copies" in report["parts"]["throughput"]["error"]
    assert "skipped" in report["parts"]["updates"]["result"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr.splitlines()[-1]
