"""What an earlier skill's importance does to the gradients of protections."""

from typing import Any

import pytest
import torch

from clrl.agents import CLEAR, EWC, L2, ClonEx, PerfectMemory, PolicyDistillation, ReservoirReplay
from clrl.agents.agem import AGEM
from tests.agents.test_cloning import added, learning

FREE: dict[str, Any] = {"max_grad_norm": 1e9, "every": 1, "batch_size": 20}
REMEMBERING: list[tuple[str, Any]] = [
    *((kind, lambda: PolicyDistillation(**FREE)) for kind in ("ppo", "sac")),
    *((kind, lambda: ReservoirReplay(tail=1.0, **FREE)) for kind in ("ppo", "sac")),
    *((kind, lambda: CLEAR(tail=1.0, **FREE)) for kind in ("ppo", "sac")),
    ("sac", lambda: ClonEx(**FREE)),
    ("sac", lambda: PerfectMemory(batch_size=20)),
]


def move(agent: Any) -> None:
    """Take the agent away from what it did."""
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.1)


def gradient(agent: Any, hook: str, importance: list[float]) -> torch.Tensor:
    """What the agent's protection adds, always from the same draws."""
    protection = agent.protections[0]
    protection.generator.manual_seed(0)
    agent.skill_importance[:2] = importance
    return torch.cat([part.flatten() for part in added(agent, getattr(protection, hook))])


@pytest.mark.parametrize(("kind", "build"), REMEMBERING)
def test_each_earlier_skills_gradient_counts_by_its_importance(kind: str, build: Any) -> None:
    agent = learning(kind, build())
    move(agent)
    for hook in ("update", "update_critic") if kind == "sac" else ("update",):
        first, second = gradient(agent, hook, [1.0, 0.0]), gradient(agent, hook, [0.0, 1.0])
        both = gradient(agent, hook, [3.0, 0.5])
        torch.testing.assert_close(both, 3.0 * first + 0.5 * second, rtol=1e-3, atol=3e-5)
        if hook == "update":
            assert first.norm() > 1e-3
            assert second.norm() > 1e-3


@pytest.mark.parametrize("build", [EWC, L2])
def test_a_penalty_pulls_as_hard_as_the_neediest_skill_asks(build: Any) -> None:
    agent = learning("ppo", build())
    once = gradient(agent, "update", [1.0, 1.0])
    assert once.norm() > 1e-3
    torch.testing.assert_close(gradient(agent, "update", [0.5, 3.0]), 3.0 * once)


@pytest.mark.parametrize("build", [PolicyDistillation, ReservoirReplay, CLEAR])
def test_the_bound_of_a_gradient_grows_with_the_greatest_importance(build: Any) -> None:
    agent = learning("ppo", build(max_grad_norm=1e-4, every=1))
    move(agent)
    sizes = [
        gradient(agent, "update", importance).norm() for importance in ([1.0, 1.0], [4.0, 1.0])
    ]
    torch.testing.assert_close(sizes[1] / sizes[0], torch.tensor(4.0), rtol=0.1, atol=0.0)


def test_a_projection_follows_the_skill_that_matters() -> None:
    agent = learning("ppo", AGEM())
    move(agent)
    memory = agent.protections[0]._memory
    reference = {}
    for importance in ([1.0, 0.0], [0.0, 1.0]):
        agent.skill_importance[:2] = importance
        reference[importance[0]] = torch.cat([g.flatten() for g in added(agent, memory.update)])
    assert not torch.allclose(reference[1.0], reference[0.0], atol=1e-3)


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_importances_are_saved_and_checked(kind: str) -> None:
    agent = learning(kind, PolicyDistillation())
    agent.skill_importance[:2] = [2.0, 0.5]
    state = agent.train_state()
    other = learning(kind, PolicyDistillation())
    other.load_train_state(state)
    assert other.skill_importance == [2.0, 0.5, 1.0]
    for broken in ([1.0], [1.0, float("nan"), 1.0], [1.0, -1.0, 1.0], "111"):
        with pytest.raises(ValueError, match="importance"):
            other.load_train_state(state | {"importance": broken})
    older = {name: value for name, value in state.items() if name != "importance"}
    other.load_train_state(older)
    assert other.skill_importance == [1.0, 1.0, 1.0]
