"""Skills scored side by side: the same scores to the bit, and the agent left as it was."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clrl.eval import Evaluator, lockstep
from tests.agents.conftest import tiny_run

EPISODES = 6


def scores(run: Any, agent: Any, threads: int) -> Any:
    evaluator = Evaluator(run.curriculum, episodes=EPISODES, threads=threads)
    actors = dict.fromkeys(run.curriculum.names, agent)
    assert (evaluator._copies(actors) is not None) == (threads != 1)
    try:
        return evaluator.scores(actors, seed=5)
    finally:
        evaluator.close()


@pytest.mark.parametrize("protect", ["ewc", "packnet", "progressive", "compress", "clear", "redo"])
@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_side_by_side_is_one_after_another(kind: str, protect: str, tmp_path: Path) -> None:
    options = {"steps": 200, "states": 512} if protect == "compress" else {}
    run = tiny_run(tmp_path / "run", {protect: options}, kind)
    agent: Any = run.agent()
    before = copy.deepcopy(agent.policy.state_dict())
    turns, together = (scores(run, agent, threads) for threads in (1, 2))
    for one, other in zip(turns, together, strict=True):
        assert np.array_equal(one.returns, other.returns)
        assert np.array_equal(one.success, other.success)
    assert not np.array_equal(turns[0].returns, turns[1].returns)
    after = agent.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert agent.policy.features.active == agent.skill


def test_a_copy_keeps_its_skill_and_shares_nothing(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", {"ewc": {}})
    agent: Any = run.agent()
    seen = torch.randn(4, agent.observation_space.shape[0])
    first = agent.for_skill("reach").copied()
    expected = first._predict(seen, deterministic=True)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(1.0)
    assert first.optimizer is None
    assert torch.equal(first._predict(seen, deterministic=True), expected)
    assert not torch.equal(agent.for_skill("reach").copied()._predict(seen, True), expected)


def test_an_error_of_one_skill_is_the_error_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run", {"ewc": {}})
    whole = lockstep.run

    def broken(env: Any, *rest: Any) -> Any:
        if env.episodes.skill.name == "press":
            raise FloatingPointError("an observation is not finite")
        return whole(env, *rest)

    monkeypatch.setattr(lockstep, "run", broken)
    with pytest.raises(ValueError, match="skill 'press': an observation is not finite"):
        scores(run, run.agent(), 2)


def test_draws_and_functions_take_turns(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", {"ewc": {}})
    agent: Any = run.agent()
    evaluator = Evaluator(run.curriculum, episodes=EPISODES, threads=2)
    each = dict.fromkeys(run.curriculum.names, agent)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(evaluator.scores(each, deterministic=False))
    for one, other in zip(*drawn, strict=True):
        assert np.array_equal(one.returns, other.returns)
    still = dict.fromkeys(run.curriculum.names, lambda seen: np.zeros((len(seen), 4), np.float32))
    assert evaluator._copies(still) is None
    assert len(evaluator.scores(still)) == 2
