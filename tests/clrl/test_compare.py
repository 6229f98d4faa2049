"""Runs side by side: which are of one method, what is refused, and what the page needs."""

import json
import os
import shutil
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clrl
from clrl.cli import main
from clrl.compare import compare, label, read
from clrl.config import resolve
from clrl.envs import make_curriculum
from tests.clrl.conftest import PAIR, PPO
from tests.clrl.test_cli import refused


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of a pair without protections, and each of its skills alone."""
    folder = tmp_path_factory.mktemp("runs")
    asked: list[tuple[Any, int]] = [(PAIR, 0), (PAIR, 1), (PAIR[:1], 0), (PAIR[1:], 0)]
    return [
        clrl.train(skills, seed=seed, out=folder / str(i), **PPO | {"protect": []}).path
        for i, (skills, seed) in enumerate(asked)
    ]


def test_runs_that_differ_by_seed_are_one_method(runs: list[Path]) -> None:
    comparison = compare(runs)
    seeds = {m.curriculum: [r.seed for r in m.results] for m in comparison.methods}
    assert seeds == {"arm-reach+arm-press": [0, 1], "arm-reach": [0], "arm-press": [0]}
    method = comparison.methods[0]
    assert method.unprotected
    assert len(method.ends[0]) == 2
    assert next(x for x, _ in method.curves[0]["press"]) > method.ends[0][0]
    assert method.paths == (str(runs[0]), str(runs[1]))


def test_forward_transfer_is_told_where_each_skill_was_trained_alone(runs: list[Path]) -> None:
    (method, *_) = compare(runs).methods
    run, alone = read(runs[0]), read(runs[3])
    start = run.ends[0]

    def area(points: list[tuple[float, float]]) -> float:
        steps, success = np.array(points).T
        return float(np.trapezoid(success, steps) / np.ptp(steps))

    ours = area(
        [(start, run.result.success[1][1]), *(p for p in run.curves["press"] if p[0] > start)]
    )
    theirs = area([(0, alone.result.success[0][0]), *alone.curves["press"]])
    assert method.transfer is not None
    assert method.transfer[0][1] == pytest.approx((ours - theirs) / (1 - theirs))
    assert method.transfer[0][0] == 0.0  # the first skill of this seed is the baseline itself
    assert compare(runs[:3]).methods[0].transfer is None


@pytest.mark.parametrize(
    ("protect", "options", "name"),
    [
        ([], {}, "ppo: none"),
        (None, {"threads": 2}, "ppo: ewc"),
        ({"ewc": {"strength": 5.0}}, {}, "ppo: ewc (strength=5.0)"),
        (["ewc"], {"gamma": 0.9, "worlds": 8}, "ppo: ewc (worlds=8, gamma=0.9)"),
        ([], {"policy_kwargs": {"net_arch": [8]}}, "ppo: none (net_arch=[8])"),
    ],
)
def test_a_method_is_named_by_what_is_not_usual(
    protect: Any, options: dict[str, Any], name: str
) -> None:
    curriculum = make_curriculum("arm3").to_json()
    config = resolve(curriculum, "ppo", protect, seed=3, device="cpu", options=options)
    assert label(config) == name


def test_runs_from_different_files_and_bases_are_one_method() -> None:
    content = make_curriculum("arm3").to_json()
    config = resolve(content, "ppo", None, seed=3, device="cpu", options={})
    names = {
        label(replace(config, imported={"file": file}, adapted={"base": file, "like": {}}))
        for file in "ab"
    }
    assert names == {"ppo: ewc (adapted=True, imported=True)"}
    heavy = {"base": "a", "like": {"heavy": "push"}}
    assert label(replace(config, adapted=heavy)) == "ppo: ewc (adapted={'heavy': 'push'})"


def test_what_cannot_be_compared_is_refused(
    runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    assert "seed 0; leave one out" in refused(capsys, "compare", str(runs[0]), str(copy))
    content = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(content | {"seed": 2}))
    result = json.loads((copy / "retention.json").read_text())
    (copy / "retention.json").write_text(json.dumps(result | {"seed": 2}))
    content["curriculum"]["skills"][0]["payload"] = 1.0
    (copy / "run.json").write_text(json.dumps(content | {"seed": 2}))
    assert "other options of skills" in refused(capsys, "compare", str(runs[0]), str(copy))
    (copy / "retention.json").unlink()
    assert "is not finished; `clrl resume" in refused(capsys, "compare", str(copy))
    assert "is not a run" in refused(capsys, "compare", str(tmp_path))
    nowhere = str(tmp_path / "absent" / "report.html")
    assert "in a folder that exists" in refused(capsys, "compare", str(runs[0]), "--out", nowhere)
    assert not list(tmp_path.glob("absent*"))


def test_other_budgets_are_another_method(runs: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    content = json.loads((copy / "run.json").read_text())
    content["curriculum"]["skills"][0]["steps"] += 9
    (copy / "run.json").write_text(json.dumps(content))
    steps = sum(table["steps"] for table in content["curriculum"]["skills"])
    names = [method.name for method in compare([*runs[:2], copy]).methods]
    assert [name.rpartition("), ")[2] for name in names] == [
        f"{steps - 9:,} steps",
        f"{steps:,} steps",
    ]
    assert compare(runs[:2]).methods[0].name.endswith(")")


def test_what_lies_beside_runs_is_left_out(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").mkdir()
    main(["compare", str(runs[0]), str(tmp_path / "logs")])
    said = capsys.readouterr()
    assert "logs is not a run; left out" in said.err
    assert "none" in said.out


def test_other_protocols_are_not_mixed(runs: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs[1], copy)
    file = copy / "retention.json"
    file.write_text(file.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    with pytest.raises(ValueError, match="not measured under one protocol"):
        compare([runs[0], copy])


def test_it_prints_json(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", *map(str, runs), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["figures"]["forward_transfer"]["value"] is not None
    assert rows[0]["figures"]["update_seconds"]["value"] > 0


@pytest.mark.parametrize("backend", ["osmesa", "glfw"])
def test_the_page_has_pictures_or_says_why_not(
    backend: str, runs: list[Path], tmp_path: Path
) -> None:
    if backend == "osmesa" and find_library("OSMesa") is None:
        pytest.skip("no software OpenGL here")
    clean = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    out = tmp_path / "report.html"
    result = subprocess.run(
        [sys.executable, "-m", "clrl", "compare", str(runs[2]), "--out", str(out)],
        env=clean | {"MUJOCO_GL": backend},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = out.read_text()
    assert text.count("data:image/jpeg") == (9 if backend == "osmesa" else 0)
    assert ("No pictures: no OpenGL renderer" in text) == (backend == "glfw")
