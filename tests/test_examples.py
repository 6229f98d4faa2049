"""The examples run as a user would copy them."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import clrl

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_own_skill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("own_skill").main(steps=1000, out=str(tmp_path / "run"))
    assert "after hold" in capsys.readouterr().out
    assert len((EXAMPLES / "own_skill.py").read_text().splitlines()) < 50


def test_own_protection(capsys: pytest.CaptureFixture[str]) -> None:
    load("own_protection").main(steps=2048)
    assert "press" in capsys.readouterr().out


def test_gymnasium_loop(tmp_path: Path) -> None:
    clrl.train("arm-reach", steps_per_skill=1000, out=tmp_path / "run", quiet=True)
    assert 0.0 <= load("gymnasium_loop").main(str(tmp_path / "run"), "reach") <= 100.0
