"""Progress & Compress: which column acts when, what may change, and what compressing gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clrl.agents import (
    EWC,
    ContinualPPO,
    ContinualSAC,
    ProgressAndCompress,
    Protection,
    sac_update,
)
from clrl.agents.compress import Pair
from clrl.agents.distillation import gaussian_kl
from clrl.agents.tape import Tape
from clrl.export import export, write
from clrl.verify import verify
from tests.agents.conftest import make_agent, resumed_twins, tiny_run, trained_on
from tests.agents.toy import PointVecEnv

SEEN = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))


def quick(**options: Any) -> ProgressAndCompress:
    return ProgressAndCompress(**{"steps": 300, "batch_size": 64, **options})


def told(agent: Any, skill: int, states: torch.Tensor = SEEN) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        mean, log_std = agent.gaussian(states, skill)
    return mean.clone(), log_std.detach().clone()


def apart(one: Any, other: Any) -> float:
    return float(gaussian_kl(one, other).mean())


def pairs(agent: Any) -> list[Any]:
    return [level for level in agent.policy.body if isinstance(level, Pair)]


def base(agent: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for pair in pairs(agent) for p in pair.layers[0].parameters()]


def same(one: Any, other: Any) -> bool:
    return all(map(torch.equal, one, other))


def within_second(kind: str, **options: Any) -> Any:
    """An agent that has learned one skill and is in the middle of another."""
    agent = trained_on(make_agent(kind, [quick(**options)]), "near")
    agent.begin_skill("mirror", PointVecEnv(sign=-1.0), 160)
    agent.learn(80, reset_num_timesteps=False)
    return agent


def learned_much(agent: Any) -> None:
    """Give the active column a policy of its own, as long training would."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in [p for pair in pairs(agent) for p in pair.layers[1].parameters()]:
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)
        for head in agent.policy.outputs[:1]:
            head.layers[1].weight += 0.3 * torch.randn((2, 16), generator=random)


@pytest.mark.parametrize("updates", ["fast", "sb3"])
def test_earlier_skills_change_in_compressing_and_at_no_other_time(kind: str, updates: str) -> None:
    agent = make_agent(kind, [quick()], updates=updates, normalize=True)
    trained_on(agent, "near")
    first, weights = told(agent, 0), base(agent)
    agent.begin_skill("mirror", PointVecEnv(sign=-1.0), 80)
    begun = told(agent, 1)
    agent.learn(80, reset_num_timesteps=False)
    assert same(told(agent, 0), first)
    assert same(base(agent), weights)
    assert not same(told(agent, 1), begun)
    agent.end_skill()
    assert not same(told(agent, 0), first)
    both, weights = [told(agent, 0), told(agent, 1)], base(agent)
    trained_on(agent, "again", steps=40)
    agent.protections[0].steps = 0
    trained_on(agent, "still", 0.5)
    assert not same(told(agent, 0), both[0])  # "again" was compressed ...
    both, weights = [told(agent, 0), told(agent, 1)], base(agent)
    trained_on(agent, "last", 2.0)
    assert same(base(agent), weights)  # ... and what takes no step of compression changes nothing
    assert all(same(told(agent, skill), both[skill]) for skill in (0, 1))


def test_the_active_column_reads_the_knowledge_base_by_hand() -> None:
    agent = within_second("ppo")
    low, high = (pair.layers for pair in pairs(agent))
    kept = torch.tanh(low[0](SEEN))
    own = torch.tanh(low[1](SEEN))
    lateral, weight = high[1].weight.split(16, dim=1)
    top = torch.tanh(kept @ lateral.t() + own @ weight.t() + high[1].bias)
    torch.testing.assert_close(told(agent, 1)[0], agent.policy.action_net.layers[1](top).detach())
    top = torch.tanh(high[0](kept))
    torch.testing.assert_close(told(agent, 0)[0], agent.policy.action_net.layers[0](top).detach())
    before = told(agent, 1)[0]
    with torch.no_grad():
        high[0].bias.add_(1.0)
    assert torch.equal(told(agent, 1)[0], before)  # nobody reads its last layer
    with torch.no_grad():
        low[0].bias.add_(1.0)
    assert not torch.equal(told(agent, 1)[0], before)


def test_compressing_brings_the_knowledge_base_near_the_active_column(kind: str) -> None:
    agent = within_second(kind, strength=1e-3)
    learned_much(agent)
    states = agent.visited(200)
    active = told(agent, 1, states)
    for pair in pairs(agent):
        pair.ended = 2
    agent.policy.select(1)
    far = apart(active, told(agent, 1, states))
    for pair in pairs(agent):
        pair.ended = 1
    agent.policy.select(1)
    agent.end_skill()
    assert far > 0.05
    assert apart(active, told(agent, 1, states)) < 0.1 * far


def test_a_strong_penalty_keeps_the_earlier_skill_better_than_a_weak_one(kind: str) -> None:
    lost, missed = [], []
    for strength in (1e-6, 1e3):
        agent = within_second(kind, strength=strength)
        learned_much(agent)
        states = agent.visited(60)
        first, active = told(agent, 0), told(agent, 1, states)
        agent.end_skill()
        lost.append(apart(first, told(agent, 0)))
        missed.append(apart(active, told(agent, 1, states)))
    assert lost[1] < 0.2 * lost[0]
    assert missed[0] < missed[1]  # what it costs


def test_updates_of_both_columns_take_the_fast_way(kind: str) -> None:
    agent = trained_on(make_agent(kind, [quick()]), "near")
    for name in ("second", "third"):
        assert agent._networks() if kind == "ppo" else sac_update.supports(agent)
        network = torch.nn.Sequential(agent.policy.body, agent.policy.outputs[0])
        own = [p for p in network.parameters() if p.requires_grad]
        agent.policy.zero_grad()
        network(SEEN).square().sum().backward()
        expected = [None if p.grad is None else p.grad.clone() for p in own]
        agent.policy.zero_grad()
        tape = Tape(network)
        with torch.no_grad():
            tape.backward(2.0 * tape.forward(SEEN))
        used = [(p.grad, g) for p, g in zip(own, expected, strict=True) if g is not None]
        assert len(used) == 6  # weight and bias of two layers and a head
        for ours, theirs in used:
            torch.testing.assert_close(ours, theirs)
        agent.begin_skill(name, PointVecEnv(sign=-1.0), 80)


def test_nothing_grows_but_heads(kind: str) -> None:
    agent = make_agent(kind, [quick(steps=1)])
    sizes, kept = [], []
    for name in ("a", "b", "c"):
        trained_on(agent, name, steps=40)
        sizes.append(sum(p.numel() for p in agent.policy.body.parameters()))
        kept.append(agent.protection_bytes)
    weights = sum(p.numel() for p in base(agent))
    assert sizes == [2 * weights + 16 * 16] * 3  # and the laterals of the second level
    assert kept == [2 * 4 * weights] * 3  # Fisher and anchor


def test_a_skill_like_an_earlier_one_starts_as_it_is(kind: str) -> None:
    agent = within_second(kind)
    agent.end_skill()
    agent.begin_skill("variant", PointVecEnv(), 80, like="mirror")
    assert all(pair.active == 1 for pair in pairs(agent))
    torch.testing.assert_close(told(agent, 2)[0], told(agent, 1)[0])


@pytest.mark.parametrize("ended", [False, True])
def test_sb3_saves_and_loads_which_column_acts(kind: str, ended: bool, tmp_path: Path) -> None:
    agent = within_second(kind)
    if ended:
        agent.end_skill()
    agent.save(tmp_path / "agent")
    algorithm: Any = ContinualPPO if kind == "ppo" else ContinualSAC
    loaded = algorithm.load(tmp_path / "agent", trust_pickle=True)
    rows = SEEN.numpy()
    assert np.array_equal(loaded.predict(rows, deterministic=True)[0], agent.act(rows, "mirror"))
    assert all(same(told(agent, skill), told(loaded, skill)) for skill in range(2))


def test_within_a_skill_its_plain_layers_are_both_columns(kind: str) -> None:
    agent = within_second(kind)
    for skill, width in ((0, 16), (1, 32)):
        with agent.policy.using(skill), torch.no_grad():
            plain = agent.policy.plain_actor(skill)
            torch.testing.assert_close(torch.nn.Sequential(*plain)(SEEN), told(agent, skill)[0])
        assert plain[0].out_features == width
        assert not any(isinstance(layer, Pair) for layer in plain)


def test_two_agents_of_one_seed_are_one(kind: str) -> None:
    ends = []
    for _ in range(2):
        agent = within_second(kind)
        agent.end_skill()
        ends.append([*agent.policy.parameters()])
    assert same(*ends)


def test_a_resumed_agent_goes_on_bit_for_bit(kind: str) -> None:
    agent, other = resumed_twins(lambda: make_agent(kind, [quick()], normalize=True))
    assert same([*agent.policy.parameters()], [*other.policy.parameters()])
    mine, theirs = (a.protections[0] for a in (agent, other))
    assert len(mine.anchor) == 4
    assert same(mine.importance + mine.anchor, theirs.importance + theirs.anchor)
    assert torch.equal(mine.generator.get_state(), theirs.generator.get_state())


def test_strength_0_is_unprotected_to_the_bit(kind: str) -> None:
    ends = []
    both: list[list[Protection]] = [[], [quick(strength=0.0)]]
    for protect in both:
        agent = trained_on(trained_on(make_agent(kind, protect), "near"), "mirror", -1.0)
        ends.append([*agent.policy.parameters()])
    assert same(*ends)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_bundle_is_the_knowledge_base_with_its_heads(algorithm: str, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", {"compress": {"steps": 20}}, algorithm)
    agent = run.agent()
    for skill in range(2):
        with agent.policy.using(skill):
            plain = [m for m in agent.policy.plain_actor(skill) if isinstance(m, torch.nn.Linear)]
        for layer, pair in zip(plain, pairs(agent), strict=False):
            assert torch.equal(layer.weight, pair.layers[0].weight)
        assert plain[-1] is agent.policy.outputs[0].layers[skill]
    write(tmp_path / "bundle", export(run, allow_forgetting=True))
    checked = verify(tmp_path / "bundle", calls=1)["skills"]
    assert all(checked[name]["difference"] < 1e-4 for name in ("reach", "press"))


def test_what_it_excludes_is_said() -> None:
    with pytest.raises(ValueError, match="ProgressAndCompress takes no other protection beside it"):
        make_agent("ppo", [EWC(), quick()])
    with pytest.raises(ValueError, match="compress and layer_norm exclude each other"):
        make_agent("sac", [quick()], layer_norm=True)
    with pytest.raises(ValueError, match="compress needs a head per skill"):
        make_agent("ppo", [quick()], multi_head=False)
    with pytest.raises(ValueError, match="compress needs a hidden layer"):
        make_agent("ppo", [quick()], net_arch=[])
    with pytest.raises(ValueError, match="compress and progressive exclude each other"):
        make_agent("sac", [quick()], progressive=True)
    with pytest.raises(ValueError, match="compress and an external memory exclude each other"):
        make_agent("ppo", [quick()], memory={"rows": 0})
