"""Dormant units and effective rank of known networks; recycling that changes nothing said."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clrl.agents import ReDo, make_protection
from clrl.agents.plasticity import activity, effective_rank, figures, hidden
from tests.agents.conftest import make_agent, resumed_twins, trained_on

SEEN = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))


def told(agent: Any, skill: int) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        mean, log_std = agent.gaussian(SEEN, skill)
    return mean.clone(), log_std.clone()


def first_layer(agent: Any) -> Any:
    return agent.policy.body[0]


@pytest.mark.parametrize("size", [1, 5, 12])
def test_effective_rank_of_equal_directions_is_their_number(size: int) -> None:
    basis = torch.linalg.qr(torch.randn(40, size, generator=torch.Generator().manual_seed(1)))[0]
    assert effective_rank(7.0 * basis) == pytest.approx(size)
    spread = basis @ torch.randn(size, 30, generator=torch.Generator().manual_seed(2))
    assert 1.0 - 1e-4 <= effective_rank(spread) <= size + 1e-4


def test_effective_rank_is_the_exponential_of_an_entropy() -> None:
    share = np.array([0.5, 0.3, 0.2])
    expected = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(torch.diag(torch.tensor([5.0, 3.0, 2.0]))) == pytest.approx(expected)
    assert effective_rank(torch.zeros(4, 3)) == 0.0


def test_activity_is_relative_to_the_layer() -> None:
    values = torch.tensor([[1.0, -3.0, 0.0, 0.0], [1.0, 3.0, 0.0, 4.0]])
    assert activity(values, False).tolist() == pytest.approx([2 / 3, 2.0, 0.0, 4 / 3])
    assert activity(values, True).tolist() == pytest.approx([0.0, 2.4, 0.0, 1.6])
    assert activity(torch.zeros(3, 2), False).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_the_share_of_dormant_units_of_a_known_network(activation: type[nn.Module]) -> None:
    """A ReLU unit that is always off and a tanh unit that is always on are both dormant."""
    agent = trained_on(make_agent("ppo", activation_fn=activation, net_arch=[10, 10]), "near")
    layer = first_layer(agent)
    with torch.no_grad():
        layer.bias[:4] = -1000.0 if activation is nn.ReLU else 1000.0
        agent.policy.body[2].weight[:] = 0.0
        agent.policy.body[2].bias[:] = 1.0
    scores = [activity(*units) <= 0.025 for units in hidden(agent.policy, SEEN, 0)]
    assert scores[0].tolist()[:4] == [True] * 4
    assert int(scores[1].sum()) == (0 if activation is nn.ReLU else 10)
    expected = (int(scores[0].sum()) + int(scores[1].sum())) / 20
    found = figures(agent.policy, SEEN, 0)
    assert found["dormant"] == pytest.approx(expected)
    assert found["effective_rank"] == pytest.approx(1.0)
    assert agent.plasticity().keys() == found.keys()


def redo_agent(
    kind: str, activation: type[nn.Module] = nn.ReLU, **options: Any
) -> tuple[Any, ReDo]:
    redo = make_protection("redo", every=1, **options)
    assert isinstance(redo, ReDo)
    return make_agent(kind, [redo], activation_fn=activation), redo


def kill(agent: Any, units: slice, bias: float) -> None:
    with torch.no_grad():
        first_layer(agent).bias[units] = bias


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_recycling_dead_units_leaves_what_is_said(kind: str, activation: type[nn.Module]) -> None:
    agent, redo = redo_agent(kind, activation, tau=0.0)
    redo.every = 10**9
    trained_on(agent, "near")
    trained_on(agent, "mirror", -1.0)
    kill(agent, slice(3, 6), -1000.0)
    redo.memory[0], agent.visited = SEEN, lambda _: SEEN
    before, count = [told(agent, skill) for skill in (0, 1)], redo.recycled
    second = torch.stack([activity(*hidden(agent.policy, SEEN, skill)[1]) for skill in (0, 1)])
    redo.every = 1
    redo.update(agent)
    assert redo.recycled - count >= 3
    for skill in (0, 1):
        for mine, theirs in zip(told(agent, skill), before[skill], strict=True):
            torch.testing.assert_close(
                mine, theirs, rtol=0, atol=0 if activation is nn.ReLU else 1e-5
            )
    layer, following = first_layer(agent), agent.policy.body[2]
    assert (following.weight[(second > 0).any(dim=0), 3:6] == 0).all()
    assert layer.weight[3:6].abs().max() <= 3**-0.5
    assert not activity(*hidden(agent.policy, SEEN, 1)[0])[3:6].le(0.025).any()


def test_what_an_earlier_skill_needs_is_not_recycled() -> None:
    agent, redo = redo_agent("ppo")
    redo.every = 10**9
    trained_on(agent, "near")
    redo.memory[0] = torch.tensor([[-4.0, 0.0, 0.0], [-3.0, 0.0, 0.0]])
    trained_on(agent, "mirror")
    with torch.no_grad():  # off where the first coordinate is above -2, as it is in "mirror"
        first_layer(agent).weight[3] = torch.tensor([-10.0, 0.0, 0.0])
        first_layer(agent).bias[3] = -20.0
    before = first_layer(agent).weight[3].clone()
    assert activity(*hidden(agent.policy, agent.visited(256), 1)[0])[3] == 0.0
    redo.every = 1
    redo.update(agent)
    assert torch.equal(first_layer(agent).weight[3], before)
    redo.memory.clear()
    redo.update(agent)
    assert not torch.equal(first_layer(agent).weight[3], before)


def test_a_recycled_unit_starts_without_moments_and_learns_again(kind: str) -> None:
    agent, redo = redo_agent(kind, nn.Tanh, tau=0.0)
    trained_on(agent, "near")
    kill(agent, slice(3, 5), -1000.0)
    following = agent.policy.body[2]
    for parameter in (first_layer(agent).weight, following.weight):
        parameter.grad = torch.ones_like(parameter)
    redo.update(agent)
    moments = agent.policy.actor_optimizer.state
    assert (moments[following.weight]["exp_avg"][:, 3:5] == 0).all()
    assert (moments[first_layer(agent).weight]["exp_avg_sq"][3:5] == 0).all()
    assert (first_layer(agent).weight.grad[3:5] == 0).all()
    assert (following.weight.grad[:, :3] == 1).all()
    agent.learn(80, reset_num_timesteps=False)
    assert (following.weight[:, 3:5] != 0).any()


def test_nothing_dormant_is_unprotected_to_the_bit(kind: str) -> None:
    plain = trained_on(make_agent(kind, activation_fn=nn.Tanh), "near")
    agent, redo = redo_agent(kind, nn.Tanh, tau=0.0)
    kept = trained_on(agent, "near")
    assert redo.recycled == 0
    pairs = zip(plain.policy.parameters(), kept.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_agent_goes_on_bit_for_bit(kind: str) -> None:
    agent, other = resumed_twins(lambda: redo_agent(kind, tau=0.5, states=32)[0])
    assert agent.protections[0].recycled == other.protections[0].recycled > 0
    pairs = zip(agent.policy.parameters(), other.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert agent.protections[0].bytes == 2 * 32 * 3 * 4


def test_layer_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="ReDo and layer_norm exclude each other"):
        make_agent("sac", [ReDo()], layer_norm=True)


@pytest.mark.parametrize(("option", "value"), [("states", 0), ("tau", -1.0), ("every", 0)])
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} must be >= "):
        make_protection("redo", **{option: value})
