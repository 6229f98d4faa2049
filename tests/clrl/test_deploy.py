"""What the runtime does with observations, right and wrong; nothing bad reaches an actuator."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clrl import bundle, deploy, export
from clrl.deploy import ObservationError, Policy, Safety
from clrl.run import Run

NAMES = ["reach", "press"]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def path(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    export.write(folder / "bundle", export.export(run))
    return folder / "bundle"


@pytest.fixture(scope="module")
def row(path: Path) -> Any:
    golden = json.loads((path / bundle.GOLDEN).read_text())
    return np.array(golden["skills"]["reach"]["observation"][5], np.float32)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def named(policy: Policy, row: Any) -> dict[str, Any]:
    parts = policy.contract["skills"][0]["observation"]
    return {part["name"]: row[slice(*part["index"])] for part in parts}


def test_names_arrays_and_lists_give_the_same_action(path: Path, row: Any) -> None:
    policy = deploy.load(path)
    action = policy(row, "reach")
    assert action.shape == (4,)
    assert policy.action_names("reach")[0] == "hand_displacement.x"
    for same in (row.tolist(), row.astype(np.float64), named(policy, row)):
        assert (policy(same, "reach") == action).all()
    assert (policy(row, "press") != action).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: dict(reversed(o.items())), "parts must come in the order hand, hand_velocity"),
        (lambda o: {k: v for k, v in o.items() if k != "goal"}, "lacks 'goal'; it needs hand"),
        (lambda o: o | {"colour": [1.0]}, "unknown part 'colour'"),
        (lambda o: o | {"hand": [0.1, 0.2]}, "hand must have shape (3,), got (2,)"),
        (lambda o: o | {"hand": 0.1}, "hand must have shape (3,), got ()"),
        (lambda o: o | {"hand": ["a", "b", "c"]}, "hand must be numbers"),
        (lambda o: np.zeros(22), "the observation must have shape (23,), got (22,)"),
        (lambda o: np.zeros((1, 23), np.float32), "must have shape (23,), got (1, 23)"),
        (lambda o: "push", "the observation must be numbers"),
    ],
)
def test_a_wrong_observation_is_refused_in_one_line(
    path: Path, row: Any, change: Any, message: str
) -> None:
    policy = deploy.load(path, Safety(on_fault="hold"))
    with pytest.raises(ValueError) as error:
        policy(change(named(policy, row)), "reach")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_skill_is_refused(path: Path, row: Any) -> None:
    with pytest.raises(ValueError, match="unknown skill 'fly'; the bundle has reach, press"):
        deploy.load(path)(row, "fly")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, 10.5])
@pytest.mark.parametrize("on_fault", ["stop", "hold", "raise"])
@pytest.mark.parametrize("form", ["array", "names", "list"])
def test_nothing_bad_reaches_an_actuator(
    path: Path, row: Any, bad: float, on_fault: str, form: str, clock: Clock
) -> None:
    """In every element, in every form, before and after a good observation."""
    policy = deploy.load(path, Safety(on_fault=on_fault), clock)
    for warm in (False, True):
        last = policy(row, "reach") if warm else np.zeros(4, np.float32)
        for element in range(len(row)):
            wrong = row.astype(np.float64)
            wrong[element] = bad
            with np.errstate(over="ignore"):
                given: Any = wrong.astype(np.float32) if form == "array" else wrong.tolist()
            given = named(policy, wrong) if form == "names" else given
            if on_fault == "raise":
                with pytest.raises(ObservationError, match=r"is not finite|outside"):
                    policy(given, "reach")
                continue
            action = policy(given, "reach")
            assert policy.fault is not None
            kept = last if on_fault == "hold" else [0.0, 0.0, 0.0, last[3]]
            assert (action == np.asarray(kept, np.float32)).all()
    assert policy.faults == 2 * len(row)
    assert np.isfinite(policy(row, "reach")).all()
    assert policy.fault is None


def test_a_held_action_ends_in_a_stop(path: Path, row: Any, clock: Clock) -> None:
    policy = deploy.load(path, Safety(on_fault="hold", hold_seconds=0.1), clock)
    last = policy(row, "reach")
    clock.now += 0.05
    assert (policy(row * np.nan, "reach") == last).all()
    clock.now += 0.06
    assert (policy(row * np.nan, "reach")[:3] == 0).all()


@pytest.mark.parametrize("age", [0.06, -0.06, math.nan, math.inf])
def test_a_stale_observation_is_a_fault(path: Path, row: Any, age: float, clock: Clock) -> None:
    policy = deploy.load(path, Safety(on_fault="raise", max_age=0.05), clock)
    policy(row, "reach", stamp=clock.now - 0.04)
    with pytest.raises(ObservationError, match=r"s old; at most 0.05 s is allowed"):
        policy(row, "reach", stamp=clock.now - age)
    with pytest.raises(ValueError, match="give the stamp of each observation"):
        policy(row, "reach")


@pytest.mark.parametrize(
    ("age", "told"), [(0.06, False), (-0.06, True), (-1.7e9, True), (1e5, True)]
)
def test_a_stamp_of_another_clock_is_told(
    path: Path, row: Any, age: float, told: bool, clock: Clock
) -> None:
    policy = deploy.load(path, Safety(on_fault="raise", max_age=0.05), clock)
    with pytest.raises(ObservationError) as fault:
        policy(row, "reach", stamp=clock.now - age)
    assert ("time.monotonic unless" in str(fault.value)) is told


def test_slew_limits_the_change_of_each_action(path: Path, row: Any, clock: Clock) -> None:
    wanted = deploy.load(path)(row, "reach")
    policy = deploy.load(path, Safety(slew=[0.4, 0.4, 0.4, 4.0]), clock)
    last = np.zeros(4, np.float32)
    for _ in range(400):
        action = policy(row, "reach")
        assert (np.abs(action - last) <= np.array([0.01, 0.01, 0.01, 0.1]) + 1e-6).all()
        last = action
        clock.now += 1 / 40
    assert np.allclose(action, wanted, atol=1e-6)
    clock.now += 100.0  # a pause saves nothing up
    policy(-row, "reach")
    assert (np.abs(policy.stop("reach")[:3]) == 0).all()


def test_a_call_too_soon_gets_the_last_action(path: Path, row: Any, clock: Clock) -> None:
    policy = deploy.load(path, Safety(max_rate=50.0), clock)
    first = policy(row, "reach")
    clock.now += 0.01
    assert (policy(-row, "reach") == first).all()
    clock.now += 0.011
    assert (policy(-row, "reach") != first).any()


def test_a_new_skill_takes_over_in_the_time_declared(path: Path, row: Any, clock: Clock) -> None:
    before, after = (deploy.load(path)(row, name) for name in NAMES)
    policy = deploy.load(path, Safety(blend=0.2), clock)
    assert (policy(row, "reach") == before).all()
    for passed, weight in ((0.0, 0.0), (0.05, 0.25), (0.15, 0.75), (0.2, 1.0), (9.0, 1.0)):
        clock.now = 100.0 + passed
        mixed = policy(row, "press")
        assert np.allclose(mixed, (1 - weight) * before + weight * after, atol=1e-6)


def test_reset_forgets(path: Path, row: Any, clock: Clock) -> None:
    policy = deploy.load(path, Safety(blend=0.2, on_fault="hold"), clock)
    policy(row, "reach")
    policy.reset()
    assert (policy(row * np.nan, "reach") == 0).all()
    assert (policy(row, "press") == deploy.load(path)(row, "press")).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_fault": "ignore"}, "on_fault must be 'stop', 'hold' or 'raise'"),
        ({"max_age": 0.0}, "max_age must be positive"),
        ({"max_rate": math.nan}, "max_rate must be positive"),
        ({"blend": -1.0}, "blend must be >= 0"),
        ({"slew": [1.0, -1.0, 1.0, 1.0]}, "slew must be positive"),
    ],
)
def test_bad_limits_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Safety(**options)


def test_slew_of_another_size_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="slew must be one number or 4"):
        deploy.load(path, Safety(slew=[1.0, 2.0]))


def test_many_threads_get_their_own_answers(path: Path) -> None:
    policy = deploy.load(path)
    rows = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 23)).astype(np.float32)
    wanted = [policy(row, NAMES[i % 2]) for i, row in enumerate(rows)]
    wrong: list[int] = []

    def work(i: int) -> None:
        got = [policy(rows[i], NAMES[i % 2]) for _ in range(500)]
        wrong.extend(i for action in got if (action != wanted[i]).any())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_runs_where_nothing_else_is_installed(path: Path, row: Any) -> None:
    """Every other package is hidden from the process, as on a robot."""
    code = f"""
import sys
hidden = {{"torch", "stable_baselines3", "gymnasium", "mujoco", "onnx", "safetensors", "rich"}}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in hidden else found(name, *a)
sys.meta_path.insert(0, Hide())
import clrl
policy = clrl.deploy.load({str(path)!r})
print(policy({row.tolist()!r}, "reach").tolist())
assert not hidden & set(sys.modules)
from clrl.cli import main
main(["verify", {str(path)!r}])
main(["train", "arm3"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert np.allclose(json.loads(lines[0]), deploy.load(path)(row, "reach"), atol=1e-6)
    assert "files match their sums" in lines[1]
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("is not installed; pip install 'clrl[train]'")
