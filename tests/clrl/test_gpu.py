"""Which device a run takes, and a whole run on it, with Warp's CPU device in the GPU's place."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import clrl
from clrl.config import BREAK_EVEN, resolve_device
from clrl.envs import make_skill, make_world, world
from clrl.measure import evaluate_run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "gpu_trouble", lambda: "")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("device", "worlds", "where"),
    [
        ("auto", BREAK_EVEN - 1, "cpu"),
        ("auto", BREAK_EVEN, "cuda"),
        ("cuda", 1, "cuda"),
        ("cpu", BREAK_EVEN, "cpu"),
        ("warp:cpu", 1, "warp:cpu"),
    ],
)
def test_auto_takes_a_gpu_from_the_break_even_on(device: str, worlds: int, where: str) -> None:
    assert resolve_device(device, worlds) == where


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert resolve_device("auto", BREAK_EVEN) == "cpu"
    with pytest.raises(ValueError, match="'cuda' cannot be used: torch finds no CUDA device"):
        resolve_device("cuda", 1)


@pytest.mark.usefixtures("no_gpu")
def test_worlds_say_what_they_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_skill("arm-reach").model  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no worlds on device 'cuda': torch finds no CUDA"):
        make_world(model, 1, "cuda")
    monkeypatch.setattr(world, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"missing: `pip install 'clrl\[gpu\]'`"):
        make_world(model, 1, "warp:cpu")


@pytest.mark.usefixtures("gpu")
def test_a_run_lives_on_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco_warp")
    from clrl.envs import warp_world

    made: list[str] = []
    kind = warp_world.WarpWorld

    def stand_in(model: Any, n: int, device: str, *, contacts: int) -> Any:
        made.append(device)
        return kind(model, n, "cpu", contacts=contacts)

    monkeypatch.setattr(warp_world, "WarpWorld", stand_in)
    run = clrl.train(
        ["arm-reach", "arm-press"],
        steps_per_skill=256,
        out=tmp_path / "run",
        device="cuda",
        horizon=10,
        worlds=8,
        episodes=4,
        quiet=True,
        batch_size=64,
    )
    assert set(made) == {"cuda"}
    assert run.config.device == "cuda"
    assert run.retention().protocol["device"] == "cuda"
    again = evaluate_run(run, episodes=4, device="cuda", quiet=True)
    assert again.success == run.retention().success
    here = evaluate_run(run, episodes=4, quiet=True)
    assert here.protocol["device"] == "cpu"


def test_choosing_the_cpu_loads_no_warp() -> None:
    code = (
        "from clrl.envs import make_skill, make_world; import sys;"
        "make_world(make_skill('arm-reach').model, 1); print('warp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
