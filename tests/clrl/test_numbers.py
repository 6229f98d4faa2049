"""A wrong number stops a training, loudly; physics that diverges is counted, kept and bounded."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clrl
from clrl import checkpoint, divergence
from clrl.agents import NumericalError
from clrl.envs import Curriculum
from tests.agents.conftest import make_agent
from tests.clrl.conftest import PPO, Stopped
from tests.clrl.test_train import same_weights
from tests.envs.test_divergence import Bursts

OPTIONS: dict[str, Any] = PPO | {"steps_per_skill": 512, "horizon": None, "protect": []}


def bursts() -> Curriculum:
    return Curriculum("bursts", [Bursts()])


def test_a_training_outlives_a_few_divergences(tmp_path: Path, stopped: Stopped) -> None:
    """It counts them, keeps the first, and resumes to the same weights."""
    often = OPTIONS | {"checkpoint_seconds": 0.0}
    whole = clrl.train(bursts(), out=tmp_path / "whole", **often)
    rows = list(csv.DictReader((whole.path / "progress.csv").read_text().splitlines()))
    counts = [int(row["env/diverged"]) for row in rows if row.get("env/diverged")]
    assert counts[-1] > 0
    assert counts == sorted(counts)
    said = sorted((whole.path / "diverged").glob("*.json"))
    assert 0 < len(said) <= counts[-1]
    first = json.loads(said[0].read_text())
    assert first["skill"] == "bursts"
    assert first["world"] == 1
    assert {"state", "action"} <= load_file(said[0].with_suffix(".safetensors")).keys()

    with stopped(4):
        clrl.train(bursts(), out=tmp_path / "cut", **often)
    cut = clrl.resume(tmp_path / "cut", bursts(), quiet=True)
    assert same_weights(whole, cut)
    ends = [checkpoint.read(checkpoint.steps(r.checkpoints)[-1])[0] for r in (whole, cut)]
    assert ends[0]["position"]["diverged"] == ends[1]["position"]["diverged"]


def test_more_divergences_than_are_borne_stop_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "MOST", 2)
    with pytest.raises(NumericalError, match="skill 'bursts': physics diverged 3 times within"):
        clrl.train(bursts(), out=tmp_path / "run", **OPTIONS)
    assert checkpoint.newest_valid(tmp_path / "run" / "checkpoints") is not None


@pytest.mark.parametrize("updates", ["fast", "sb3"])
def test_a_bad_temperature_stops_training(updates: str) -> None:
    agent = make_agent("sac", updates=updates)
    agent.begin_skill("near")
    agent.learn(40)
    with torch.no_grad():
        agent.log_ent_coef.fill_(float("inf"))
    with pytest.raises(NumericalError, match="is not finite"):
        agent.learn(40, reset_num_timesteps=False)


@pytest.mark.parametrize("updates", ["fast", "sb3"])
@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_statistics_that_overflow_stop_training(kind: str, updates: str) -> None:
    """Their variance is infinite in float32, though every observation is finite."""
    agent = make_agent(kind, normalize=True, updates=updates)
    agent.begin_skill("near")
    agent.env.poison = 1e25
    with pytest.raises(NumericalError, match="is not finite"):
        agent.learn(80)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_protection_that_remembers_a_bad_number_stops_training(value: float) -> None:
    from clrl.agents import EWC

    class Broken(EWC):
        def after_skill(self, learner: Any) -> None:
            super().after_skill(learner)
            self.importance[0].view(-1)[0] = value

    agent = make_agent("ppo", [Broken(samples=16)])
    agent.begin_skill("near")
    agent.learn(40)
    with pytest.raises(NumericalError, match="memory of Broken is not finite"):
        agent.end_skill()


def test_a_loss_that_is_not_finite_stops_training() -> None:
    agent = make_agent("ppo")
    agent.begin_skill("near")
    agent.learn(40)
    agent.logger.record("train/value_loss", float("inf"))
    with pytest.raises(NumericalError, match="value_loss is not finite"):
        agent._stop_if_broken()


def test_an_action_that_is_not_finite_ends_an_evaluation() -> None:
    from clrl.eval.evaluator import evaluate_skill

    def broken(observation: Any) -> Any:
        return torch.full((len(observation), 4), float("nan")).numpy()

    with pytest.raises(ValueError, match="skill 'bursts': an action is not finite"):
        evaluate_skill(broken, bursts(), "bursts", episodes=2, threads=1)
