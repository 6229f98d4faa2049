"""A-GEM's projection against its closed form, and on the gradients of agents."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clrl.agents import AGEM, PolicyDistillation
from clrl.agents.agem import project
from tests.agents.conftest import make_agent
from tests.agents.toy import PointVecEnv

numbers = st.floats(-1e3, 1e3, width=32)
pairs = st.integers(1, 12).flatmap(
    lambda n: arrays.arrays(np.float64, (2, n), elements=numbers).map(torch.from_numpy)
)


@settings(max_examples=300, deadline=None)
@given(pairs, st.integers(0, 12))
def test_projected_gradients_never_oppose_the_memory(pair: torch.Tensor, cut: int) -> None:
    gradient, reference = pair
    parts = [t.tensor_split([min(cut, len(t))]) for t in pair]
    projected = torch.cat(project(*parts))  # type: ignore[arg-type]
    slack = 1e-12 * float(gradient.norm() * reference.norm())
    assert float(projected @ reference) >= -slack
    assert float(projected.norm()) <= float(gradient.norm()) * (1 + 1e-12)
    if float(gradient @ reference) >= 0.0:
        assert torch.equal(projected, gradient)
    else:
        closed = gradient - (gradient @ reference) / (reference @ reference) * reference
        torch.testing.assert_close(projected, closed, rtol=1e-9, atol=1e-9)


def test_what_has_no_gradient_counts_as_0() -> None:
    ones = torch.ones(2)
    first, second, third = project([-ones, None, ones], [ones, ones, None])
    assert torch.equal(first, -ones / 2)  # type: ignore[arg-type]
    assert torch.equal(second, ones / 2)  # type: ignore[arg-type]
    assert third is not None
    assert torch.equal(third, ones)


def second_skill(kind: str, protect: list[Any]) -> Any:
    agent = make_agent(kind, protect)
    agent.begin_skill("near", None, 80)
    agent.learn(80)
    agent.end_skill()
    agent.begin_skill("mirror", PointVecEnv(sign=-1.0), 80)
    agent.learn(80, reset_num_timesteps=False)
    return agent


def test_an_agents_gradient_agrees_with_its_memory(kind: str) -> None:
    agem = AGEM(states=16, batch_size=16)
    agent = second_skill(kind, [agem])
    actor = list((agent.policy if kind == "ppo" else agent.actor).parameters())
    torch.manual_seed(0)
    draws = agem._memory.generator.get_state()
    opposed = 0
    for _ in range(10):
        gradients = [torch.randn_like(p) for p in actor]
        for parameter in actor:
            parameter.grad = None
        agem._memory.generator.set_state(draws)
        PolicyDistillation.update(agem._memory, agent)
        memory = [p.grad for p in actor]
        before = products(gradients, memory)
        for parameter, gradient in zip(actor, gradients, strict=True):
            parameter.grad = gradient.clone()
        agem._memory.generator.set_state(draws)  # the same rows again
        agem.update(agent)
        after = products([p.grad for p in actor], memory)
        if before < 0:
            opposed += 1
            assert after == pytest.approx(0.0, abs=1e-4 * abs(before))
        else:
            assert all(map(torch.equal, (p.grad for p in actor), gradients))
    assert 0 < opposed < 10


def products(gradients: list[Any], memory: list[Any]) -> float:
    return sum(
        float((g * m).sum()) for g, m in zip(gradients, memory, strict=True) if m is not None
    )


def test_it_looks_at_what_others_have_added() -> None:
    agem, distill = AGEM(), PolicyDistillation()
    assert make_agent("ppo", [agem, distill]).protections == [distill, agem]
    assert agem.bytes == 0
    agent = second_skill("ppo", [agem, distill])
    assert agem.bytes == distill.bytes > 0
    assert np.isfinite(agent.act(np.zeros(3, np.float32), "near")).all()
