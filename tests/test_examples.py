"""The examples run as a user would copy them."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import clrl
from clrl.envs import Curriculum, make_skill
from clrl.envs.arm_skills import Reach
from clrl.run import Run

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


class Forgetful(Reach):
    """Takes an option that its spec does not say."""

    def __init__(self, *, height: float = 0.2, **options: Any) -> None:
        super().__init__(**options)
        self.height = height


class Rebuilt(Forgetful):
    @property
    def spec(self) -> dict[str, Any]:
        return super().spec | {"height": self.height}


def test_an_option_of_a_skill_of_ones_own_is_kept_or_refused() -> None:
    with pytest.raises(ValueError, match="would be rebuilt without it; let its property `spec`"):
        make_skill("tests.test_examples:Forgetful", height=0.3)
    assert make_skill("tests.test_examples:Forgetful", height=0.2)  # its default
    made = make_skill("tests.test_examples:Rebuilt", height=0.3)
    again = Curriculum.from_json(Curriculum("mine", [made]).to_json(), "here").skills[0]
    assert vars(again)["height"] == 0.3


def test_own_protection(capsys: pytest.CaptureFixture[str]) -> None:
    load("own_protection").main(steps=2048)
    assert "press" in capsys.readouterr().out


def test_gymnasium_loop(tmp_path: Path) -> None:
    clrl.train("arm-reach", steps_per_skill=1000, out=tmp_path / "run", quiet=True)
    assert 0.0 <= load("gymnasium_loop").main(str(tmp_path / "run"), "reach") <= 100.0


def test_tune_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    tune = load("tune").tune
    tiny = {"steps_per_skill": 512, "worlds": 8, "n_steps": 8, "batch_size": 32, "episodes": 4}
    tune("arm-reach,arm-press", 1, tmp_path, seeds=1, **tiny)
    study = tune("arm-reach,arm-press", 2, tmp_path, seeds=1, **tiny)
    runs = [Run.open(tmp_path / f"trial{i}-seed0") for i in range(2)]
    assert len(study.trials) == 2
    for run, trial in zip(runs, study.trials, strict=True):
        assert run.config.protect["ewc"]["strength"] == trial.params["strength"]
        assert run.retention().metrics["average_performance"] == trial.value
