"""The adapters' own logic, without ROS and without LeRobot."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clrl import bundle, deploy, export
from clrl.deploy import Safety
from clrl.run import Run
from tests.clrl.test_deploy import Clock

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def path(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    export.write(folder / "bundle", export.export(run))
    return folder / "bundle"


@pytest.fixture
def parts(path: Path) -> dict[str, list[float]]:
    content = json.loads((path / bundle.CONTRACT).read_text())["skills"][0]["observation"]
    golden = json.loads((path / bundle.GOLDEN).read_text())["skills"]["reach"]["observation"][3]
    return {part["name"]: golden[slice(*part["index"])] for part in content}


def test_the_bridge_acts_once_every_part_is_there(path: Path, parts: Any) -> None:
    clock = Clock()
    bridge = load("ros2/bridge.py").Bridge(path, "reach", Safety(max_age=0.1), clock)
    for name, values in parts.items():
        assert bridge.tick() == [0.0] * 4
        assert "not every part" in bridge.policy.fault
        bridge.receive(name, values)
    assert np.allclose(bridge.tick(), deploy.load(path)(parts, "reach"))


@pytest.mark.parametrize("wrong", ["late", "nan", "short"])
def test_the_bridge_stops_at_what_is_wrong_and_goes_on(path: Path, parts: Any, wrong: str) -> None:
    clock = Clock()
    bridge = load("ros2/bridge.py").Bridge(path, "reach", Safety(max_age=0.1), clock)
    for name, values in parts.items():
        bridge.receive(name, values)
    good = bridge.tick()
    if wrong == "late":
        clock.now += 0.2
        for name in list(parts)[1:]:  # all but the hand, whose topic has died
            bridge.receive(name, parts[name])
    else:
        bridge.receive("hand", [math.nan] * 3 if wrong == "nan" else [0.0])
    assert bridge.tick()[:3] == [0.0] * 3
    assert bridge.policy.fault
    for name, values in parts.items():
        bridge.receive(name, values)
    assert bridge.tick() == good


def test_the_bridge_refuses_what_it_does_not_know(path: Path) -> None:
    kind = load("ros2/bridge.py").Bridge
    with pytest.raises(ValueError, match="max_age must be set"):
        kind(path, "reach", Safety(), Clock())
    bridge = kind(path, "reach", Safety(max_age=0.1), Clock())
    with pytest.raises(ValueError, match="unknown skill 'fly'"):
        bridge.skill = "fly"
    assert bridge.skill == "reach"
    with pytest.raises(ValueError, match="has no part 'colour'"):
        bridge.receive("colour", [1.0])


def test_lerobot_batches_get_the_bundles_actions(path: Path) -> None:
    acting = load("lerobot/lerobot_policy_clrl/acting.py").Acting(path, "press")
    golden = json.loads((path / bundle.GOLDEN).read_text())["skills"]["press"]
    assert np.allclose(acting(np.array(golden["observation"])), golden["action"], atol=1e-5)


def test_the_gymnasium_loop_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0.0 <= load("gymnasium/loop.py").main(str(path), "reach") <= 1.0
    assert "of 1 episodes succeeded" in capsys.readouterr().out
