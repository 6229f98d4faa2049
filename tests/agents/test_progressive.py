"""A column per skill: what it computes, that it never changes again, and what it excludes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from clrl.agents import EWC, ContinualPPO, make_protection, sac_update
from clrl.agents.progressive import Progressive
from clrl.agents.tape import Tape
from tests.agents.conftest import make_agent, resumed_twins, trained_on

SEEN = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def three_skills(kind: str, **options: Any) -> Any:
    agent = make_agent(kind, [Progressive()], **options)
    for name, sign in (("near", 1.0), ("mirror", -1.0), ("again", 1.0)):
        trained_on(agent, name, sign)
    return agent


def told(agent: Any, skill: int) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        mean, log_std = agent.gaussian(SEEN, skill)
    return mean.clone(), log_std.clone()


@pytest.mark.parametrize("updates", ["fast", "sb3"])
def test_earlier_skills_act_as_they_did_to_the_bit(kind: str, updates: str) -> None:
    agent = make_agent(kind, [make_protection("progressive")], updates=updates, normalize=True)
    trained_on(agent, "near")
    first = told(agent, 0)
    trained_on(agent, "mirror", -1.0)
    second = told(agent, 1)
    trained_on(agent, "again")
    assert all(map(torch.equal, told(agent, 0), first))
    assert all(map(torch.equal, told(agent, 1), second))
    assert not torch.equal(told(agent, 2)[0], second[0])


def test_a_column_is_the_sum_of_the_paper() -> None:
    agent = three_skills("ppo")
    levels = [level.layers for level in agent.policy.body if hasattr(level, "layers")]
    below = [torch.tanh(SEEN @ c.weight.t() + c.bias) for c in levels[0]]
    size = levels[0][0].out_features
    above = []
    for k, column in enumerate(levels[1]):
        parts = column.weight.split(size, dim=1)
        assert len(parts) == k + 1
        above.append(
            torch.tanh(sum(h @ u.t() for h, u in zip(below, parts, strict=False)) + column.bias)
        )
    head = agent.policy.action_net.layers[1]
    expected = torch.cat(above[:2], dim=1) @ head.weight.t() + head.bias
    torch.testing.assert_close(told(agent, 1)[0], expected.detach())


def test_the_tape_s_gradients_of_columns_are_those_of_autograd(kind: str) -> None:
    policy = three_skills(kind).policy
    network = torch.nn.Sequential(policy.body, policy.outputs[0])
    assert Tape.supports(network)
    pull = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    x = SEEN.clone().requires_grad_()
    policy.zero_grad()
    (network(x) * pull).sum().backward()
    expected = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    own = [p for p in network.parameters() if p.requires_grad]
    assert 0 < len(own) < len(expected)
    policy.zero_grad()
    tape = Tape(network)
    with torch.no_grad():
        tape.forward(SEEN)
        tape.backward(pull.clone())
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert (parameter.grad is None) == (gradient is None) == (not parameter.requires_grad)
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient)


def test_updates_of_columns_take_the_fast_way(kind: str) -> None:
    agent = three_skills(kind)
    assert agent._networks() if kind == "ppo" else sac_update.supports(agent)


def test_the_actor_grows_by_its_laterals() -> None:
    agent = make_agent("ppo", [Progressive()])
    sizes = []
    for name in ("a", "b", "c"):
        agent.begin_skill(name)
        sizes.append(sum(p.numel() for p in agent.policy.body.parameters()))
    inputs, width = 3, 16
    column = inputs * width + width + width * width + width
    assert [b - a for a, b in zip([0, *sizes], sizes, strict=False)] == [
        column + k * width * width for k in range(3)
    ]


def test_a_skill_like_an_earlier_one_starts_as_it_is(kind: str) -> None:
    agent = three_skills(kind, normalize=True)
    agent.begin_skill("variant", like="mirror")
    torch.testing.assert_close(told(agent, 3)[0], told(agent, 1)[0])


def test_a_resumed_agent_goes_on_bit_for_bit(kind: str) -> None:
    agent, other = resumed_twins(lambda: make_agent(kind, [Progressive()], normalize=True))
    pairs = zip(agent.policy.parameters(), other.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [p.requires_grad for p in agent.policy.parameters()] == [
        p.requires_grad for p in other.policy.parameters()
    ]


def test_sb3_saves_and_loads_columns(tmp_path: Path) -> None:
    agent = three_skills("ppo")
    agent.save(tmp_path / "agent")
    loaded = ContinualPPO.load(tmp_path / "agent", trust_pickle=True)
    for skill in range(3):
        assert all(map(torch.equal, told(agent, skill), told(loaded, skill)))


def test_strength_0_asks_for_nothing(kind: str) -> None:
    plain = trained_on(make_agent(kind), "near")
    off = trained_on(make_agent(kind, [Progressive(0.0)]), "near")
    pairs = zip(plain.policy.parameters(), off.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_it_excludes_is_said() -> None:
    with pytest.raises(
        ValueError, match="Progressive takes no other protection beside it; drop it or EWC"
    ):
        make_agent("ppo", [EWC(), Progressive()])
    with pytest.raises(ValueError, match="progressive and layer_norm exclude each other"):
        make_agent("sac", [Progressive()], layer_norm=True)
    with pytest.raises(ValueError, match="progressive needs a head per skill"):
        make_agent("ppo", [Progressive()], multi_head=False)
    with pytest.raises(ValueError, match="progressive needs a hidden layer"):
        make_agent("ppo", [Progressive()], net_arch=[])
