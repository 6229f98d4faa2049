import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrl.eval.intervals import wilson
from clrl.eval.metrics import metrics
from clrl.eval.report import table
from clrl.eval.retention import Retention

KEYS = (
    *("schema", "curriculum", "skills", "agent", "protections", "seed", "protocol", "success"),
    *("success_low", "success_high", "return", "metrics", "cost", "versions"),
)
Make = Callable[..., Retention]


def altered(result: Retention, *place: Any, value: Any) -> str:
    """The document with one value replaced."""
    document = json.loads(result.to_json())
    target = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return json.dumps(document)


def test_measured_computes_rates_intervals_and_metrics(result: Retention) -> None:
    np.testing.assert_array_equal(result.matrix, [[0, 0.1], [0.8, 0.1], [0.4, 0.9]])
    low, high = wilson([[0, 10], [80, 10], [40, 90]], 100)
    np.testing.assert_array_equal(result.success_low, low)
    np.testing.assert_array_equal(result.success_high, high)
    assert result.metrics == metrics(result.matrix)
    assert result.skills == ("reach", "push")


def test_the_document_has_the_keys_of_schema_1(result: Retention) -> None:
    document = json.loads(result.to_json())
    assert tuple(document) == KEYS
    assert document["schema"] == 1
    assert document["metrics"]["forward_transfer"] is None


def test_the_file_has_one_matrix_row_a_line(result: Retention) -> None:
    assert "\n    [0.8, 0.1],\n" in result.to_json()


def test_a_picture_is_not_what_save_writes(result: Retention, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is saved as JSON; clrl\.eval\.plot draws a \.png"):
        result.save(tmp_path / "retention.PNG")
    assert not list(tmp_path.iterdir())


@given(data=st.data(), count=st.integers(1, 4), episodes=st.integers(1, 500))
def test_what_is_written_is_read(make: Make, data: Any, count: int, episodes: int) -> None:
    def matrix(cells: st.SearchStrategy[Any]) -> Any:
        row = st.lists(cells, min_size=count, max_size=count)
        return data.draw(st.lists(row, min_size=count + 1, max_size=count + 1))

    protocol = {**make().protocol, "episodes": episodes}
    given_result = make(
        curriculum=data.draw(st.text(min_size=1)),
        skills=data.draw(
            st.lists(st.text(min_size=1), min_size=count, max_size=count, unique=True)
        ),
        protections=data.draw(st.lists(st.text(min_size=1), max_size=2)),
        seed=data.draw(st.integers()),
        protocol=protocol,
        successes=matrix(st.integers(0, episodes)),
        returns=matrix(st.floats(allow_nan=False, allow_infinity=False)),
        forward_transfer=data.draw(st.none() | st.floats(-1e3, 1.0)),
    )
    assert Retention.from_json(given_result.to_json()) == given_result


def test_a_file_comes_back_and_leaves_no_other(result: Retention, tmp_path: Path) -> None:
    path = tmp_path / "retention.json"
    path.write_text("an older one")
    result.save(path)
    assert Retention.load(path) == result
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_older_file(
    result: Retention, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "retention.json"
    result.save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        result.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["schema"], 2, "schema must be 1, got 2"),
        (["schema"], True, "schema must be 1, got True"),
        (["extra"], 1, "'extra' is not a key of schema 1"),
        (["protocol", "x\ny"], 1, r"'protocol.x\\ny' is not a key of schema 1"),
        (["curriculum"], 3, "curriculum must be a non-empty string, got 3"),
        (["skills"], [], r"skills must be one or more different names, got \[\]"),
        (["skills"], ["a", "a"], "skills must be one or more different names"),
        (["skills", 1], None, r"skills\[1\] must be a non-empty string, got null"),
        (["protections"], "ewc", "protections must be a list, got 'ewc'"),
        (["seed"], 1.5, "seed must be an integer, got 1.5"),
        (["protocol"], [], r"protocol must be an object, got \[\]"),
        (["protocol", "episodes"], 0, "protocol.episodes must be >= 1, got 0"),
        (["protocol", "deterministic"], 1, "protocol.deterministic must be true or false, got 1"),
        (["success"], [[0.0, 0.0]], "success must have 3 rows, one more than skills, got 1"),
        (["success", 1], [0.0], r"success\[1\] must have 2 values, one a skill, got 1"),
        (["success", 1, 0], "0.8", r"success\[1\]\[0\] must be a finite number, got '0.8'"),
        (["success", 1, 0], True, r"success\[1\]\[0\] must be a finite number, got True"),
        (["success", 1, 0], 1.2, r"success\[1\]\[0\] must be within \[0, 1\], got 1.2"),
        (["success", 1, 0], 0.1, r"success\[1\]\[0\] must be within its interval"),
        (["success_low", 0, 0], -0.1, r"success_low\[0\]\[0\] must be within \[0, 1\], got -0.1"),
        (["return", 0, 0], None, r"return\[0\]\[0\] must be a finite number, got null"),
        (["return", 0, 0], 10**400, "integers must have at most 40 digits, got more"),
        (["return", 0, 0], float("nan"), "numbers must be finite, got NaN"),
        (["metrics", "forgetting"], 0.0, "metrics.forgetting must be 0.2.*the file was altered"),
        (["metrics", "retention"], None, "metrics.retention must be 0.75, .* got null"),
        (["metrics", "forward_transfer"], "1", "metrics.forward_transfer must be a finite number"),
        (["cost", "env_steps"], 1.5, "cost.env_steps must be an integer, got 1.5"),
        (["cost", "updates"], -1, "cost.updates must be >= 0, got -1"),
        (["cost", "wall_seconds"], -1.0, "cost.wall_seconds must be >= 0, got -1.0"),
        (["versions", "torch"], None, "versions.torch must be a non-empty string, got null"),
    ],
)
def test_an_altered_file_is_refused(
    result: Retention, tmp_path: Path, place: list[Any], value: Any, message: str
) -> None:
    path = tmp_path / "retention.json"
    path.write_text(altered(result, *place, value=value))
    with pytest.raises(ValueError, match=rf"^{path}: {message}") as refusal:
        Retention.load(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", [*KEYS, "protocol.seed", "cost.parameters", "metrics.retention"])
def test_a_missing_key_is_refused(result: Retention, key: str) -> None:
    document = json.loads(result.to_json())
    *outer, last = key.split(".")
    del (document[outer[0]] if outer else document)[last]
    expected = "schema must be 1, got null" if key == "schema" else f"{key} is missing"
    with pytest.raises(ValueError, match=f"^retention.json: {expected}$"):
        Retention.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON, got Expecting value in line 1"),
        ("[]", r"must be a JSON object, got \[\]"),
        ('{"schema": 1, "schema": 1}', "'schema' must be given once, got it twice"),
        ("[" * 100_000, "must be JSON of at most 200 levels"),
        ("9" * 5000, "integers must have at most 40 digits, got more"),
    ],
)
def test_a_text_that_is_no_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^retention.json: {message}"):
        Retention.from_json(text)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "retention.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        Retention.load(path)


def test_an_impossible_result_cannot_be_made(make: Make) -> None:
    with pytest.raises(ValueError, match=r"return\[0\]\[0\] must be a finite number, got nan"):
        make(returns=np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match=r"successes must be within \[0, episodes\], got 101"):
        make(successes=np.full((3, 2), 101))
    with pytest.raises(ValueError, match="skills must be one or more different names"):
        make(skills=["reach", "reach"])


def test_str_is_the_table(result: Retention) -> None:
    assert str(result) == table(result)


@pytest.mark.parametrize("what", ["Retention", "table", "plot", "wilson", "FORMULAS"])
def test_results_are_read_and_printed_without_the_heavy_packages(what: str) -> None:
    heavy = {"torch", "matplotlib", "scipy", "mujoco"}
    code = f"import sys; from clrl.eval import {what}; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_every_public_name_resolves() -> None:
    import clrl.eval

    assert sorted(clrl.eval.__all__) == sorted(clrl.eval._HOME)
    assert all(getattr(clrl.eval, name) is not None for name in clrl.eval.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = clrl.eval.absent


def test_a_protocol_may_state_a_value_for_each_skill(result: Retention) -> None:
    skills = len(result.skills)
    document = json.loads(result.to_json())
    document["protocol"] |= {"horizon": [100] * skills, "success": ["last-step"] * skills}
    assert "last-step" in str(Retention.from_json(json.dumps(document)))
    document["protocol"]["horizon"] = [100] * (skills + 1)
    with pytest.raises(ValueError, match=f"protocol.horizon must have {skills} values"):
        Retention.from_json(json.dumps(document))
