"""Importance of earlier skills, from what each retains while a later one is trained."""

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clrl
from clrl.importance import LEAST, MOST, TOLERANCE, moved
from clrl.run import Run
from tests.clrl.conftest import Stopped

SHORT: dict[str, Any] = {
    "worlds": 4,
    "threads": 1,
    "episodes": 4,
    "horizon": 20,
    "quiet": True,
    "steps_per_skill": 512,
    "n_steps": 16,
    "batch_size": 32,
    "n_epochs": 1,
    "checkpoint_seconds": 0.0,
    "importance": "measured",
}
SKILLS = ["arm-reach", "arm-press", "arm-drawer"]


@given(st.floats(LEAST, MOST), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_more_loss_never_weighs_less_and_bounds_hold(now: float, a: float, b: float) -> None:
    low, high = moved(now, min(a, b)), moved(now, max(a, b))
    assert LEAST <= low <= high <= MOST


def test_known_answers() -> None:
    assert moved(1.0, TOLERANCE) == 1.0
    assert moved(1.0, TOLERANCE + 0.1) == pytest.approx(2.718281828)
    assert moved(2.0, -0.3) == moved(2.0, 0.0) < 2.0
    weight = 8.0
    for _ in range(40):
        weight = moved(weight, 0.0)
    assert weight == LEAST


def lossy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first skill look lost as soon as another is trained."""
    from clrl.eval.evaluator import Evaluator

    scores = Evaluator.scores

    def scored(self: Any, actors: Any, **options: Any) -> Any:
        results = scores(self, actors, **options)
        for (name, actor), result in zip(actors.items(), results, strict=True):
            if name == "reach" and hasattr(actor, "skills"):  # a look during training
                result.success[:] = len(actor.skills) == 1
        return results

    monkeypatch.setattr(Evaluator, "scores", scored)


def test_what_is_lost_weighs_more_and_a_stopped_run_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: Stopped
) -> None:
    lossy(monkeypatch)
    whole = clrl.train(SKILLS, protect=["distill"], out=tmp_path / "whole", **SHORT)
    with (whole.path / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("importance/reach")]
    reach = [float(row["importance/reach"]) for row in rows]
    assert len(reach) >= 8
    assert reach == sorted(reach)
    assert reach[-1] == MOST
    assert all(float(row["importance/press"]) <= 1.0 for row in rows if row["importance/press"])
    with stopped(13):
        clrl.train(SKILLS, protect=["distill"], out=tmp_path / "cut", **SHORT)
    resumed = clrl.resume(tmp_path / "cut", quiet=True)
    last = [Run.open(run.path).agent() for run in (whole, resumed)]
    assert last[0].skill_importance == last[1].skill_importance
    for a, b in zip(*(agent.policy.parameters() for agent in last), strict=True):
        assert a.equal(b)


def test_equal_importance_is_the_default_and_stays(tmp_path: Path) -> None:
    run = clrl.train(
        SKILLS[:2], protect=["ewc"], out=tmp_path / "run", **SHORT | {"importance": "equal"}
    )
    assert run.config.importance == "equal"
    assert run.agent().skill_importance == [1.0, 1.0]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"importance": "guessed"}, "importance must be one of equal, measured, got 'guessed'"),
        ({"importance": 3}, "importance must be one of"),
        ({"importance": "measured", "protect": []}, "does nothing with no protection"),
        ({"importance": "measured", "joint": True, "protect": None}, "does nothing with no prot"),
        (
            {"importance": "measured", "protect": ["packnet"]},
            "does nothing with packnet, which weighs no skill",
        ),
    ],
)
def test_what_does_not_fit_is_refused(asked: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        clrl.train(SKILLS, out=tmp_path / "run", **{"protect": ["ewc"], **SHORT, **asked})
    assert not (tmp_path / "run").exists()
