"""Cloning and perfect memory: what is stored, and gradients against autograd and SB3."""

from typing import Any

import pytest
import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from clrl.agents import CLEAR, ClonEx, PerfectMemory, Protection, Reservoir, make_protection
from tests.agents.conftest import make_agent
from tests.agents.toy import PointVecEnv

NEW: dict[str, list[Any]] = {"ppo": [CLEAR], "sac": [CLEAR, ClonEx, PerfectMemory]}
EACH = [(kind, build) for kind, builds in NEW.items() for build in builds]


def learning(kind: str, protection: Protection, skills: int = 2, **policy: Any) -> Any:
    """An agent that has learned some skills and is within its next one."""
    agent = make_agent(kind, [protection], normalize=True, **policy)
    for i in range(skills + 1):
        agent.begin_skill(f"skill {i}", PointVecEnv(seed=i, sign=(-1.0) ** i), 80)
        agent.learn(80, reset_num_timesteps=False)
        if i < skills:
            agent.end_skill()
    return agent


def added(agent: Any, act: Any) -> list[torch.Tensor]:
    """What an act adds to gradients of 1, by parameter of the policy."""
    parameters = list(agent.policy.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    act(agent)
    return [p.grad - 1.0 for p in parameters]


def assert_gradient(agent: Any, ours: list[torch.Tensor], loss: torch.Tensor, of: Any) -> None:
    """The gradient of a loss by some networks, and nothing elsewhere."""
    chosen = {id(p) for p in of}
    parameters = list(agent.policy.parameters())
    theirs = torch.autograd.grad(
        loss, [p for p in parameters if id(p) in chosen], allow_unused=True
    )
    expected = iter(theirs)
    for parameter, mine in zip(parameters, ours, strict=True):
        other = next(expected) if id(parameter) in chosen else None
        other = torch.zeros_like(mine) if other is None else other
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5)


def test_clear_stores_what_ppo_said_as_it_acted() -> None:
    clear = CLEAR(capacity=1000, tail=1.0)
    agent = make_agent("ppo", [clear])
    agent.begin_skill("near", PointVecEnv(), 40)
    before = make_agent("ppo")
    agent.learn(40)  # one rollout
    agent.end_skill()
    columns, buffer = clear.reservoirs[0].columns, agent.rollout_buffer
    torch.testing.assert_close(columns["value"], torch.as_tensor(buffer.values).reshape(-1, 1))
    with torch.no_grad():
        mean, log_std = before.gaussian(columns["observation"], 0)
    torch.testing.assert_close(columns["mean"], mean)
    torch.testing.assert_close(columns["log_std"], log_std)
    assert not torch.equal(agent.gaussian(columns["observation"], 0)[0], mean)  # it moved since


def test_clear_stores_both_critics_of_sac_for_the_stored_action() -> None:
    clear = CLEAR(capacity=1000, tail=1.0)
    agent = make_agent("sac", [clear])
    agent.learning_starts = 1000  # no update, so that today's answer is the one of then
    agent.begin_skill("near", PointVecEnv(), 40)
    agent.learn(40)
    agent.end_skill()
    columns = clear.reservoirs[0].columns
    with torch.no_grad():
        values = agent.critic(columns["observation"], columns["action"])
    torch.testing.assert_close(columns["value"], torch.cat(values, dim=1))


@pytest.mark.parametrize("policy", [{}, {"multi_head": False}])
def test_clear_pulls_by_the_losses_it_states(
    kind: str, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clear = CLEAR(3.0, capacity=100, tail=1.0, batch_size=20, max_grad_norm=1e9, every=1)
    agent = learning(kind, clear, **policy)
    rows = clear.sample(agent)
    assert [len(columns["mean"]) for columns in rows.values()] == [10, 10]
    monkeypatch.setattr(clear, "sample", lambda _: rows)

    def gaussian(mean: torch.Tensor, log_std: torch.Tensor) -> Any:
        return Independent(Normal(mean, log_std.exp()), 1)

    cloning: Any = 0.0
    values: Any = 0.0
    for skill, part in rows.items():
        now = gaussian(*agent.gaussian(part["observation"], skill))
        cloning = cloning + kl_divergence(gaussian(part["mean"], part["log_std"]), now).mean()
        error = agent.values(part, skill) - part["value"]
        values = values + 0.5 * error.square().sum(dim=1).mean()
    everything = list(agent.policy.parameters())
    if kind == "ppo":
        assert_gradient(agent, added(agent, clear.update), 3.0 * (cloning + values), everything)
    else:
        actor, critic = list(agent.actor.parameters()), list(agent.critic.parameters())
        assert_gradient(agent, added(agent, clear.update), 3.0 * cloning, actor)
        assert_gradient(agent, added(agent, clear.update_critic), 3.0 * values, critic)


def test_clear_bounds_each_gradient() -> None:
    clear = CLEAR(2.0, tail=1.0, max_grad_norm=0.01, every=1)
    agent = learning("sac", clear)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.5)
    for hook in (clear.update, clear.update_critic):
        norm = torch.cat([g.flatten() for g in added(agent, hook)]).norm()
        assert float(norm) == pytest.approx(0.02, rel=1e-2)


def test_clonex_clones_and_lets_earlier_heads_explore() -> None:
    clonex = ClonEx(states=32)
    agent = learning("sac", clonex)
    assert agent.explore == "best-head"
    assert clonex.memory.keys() == {0, 1}
    moved = torch.cat([g.flatten() for g in added(agent, clonex.update)]).norm()
    assert 0.0 < float(moved) <= 0.5 + 1e-4


def test_perfect_memory_keeps_every_row_in_order_even_where_the_replay_drops_some() -> None:
    perfect = PerfectMemory()
    agent = make_agent("sac", [perfect])
    agent.replay_buffer.buffer_size = 30  # of 40 steps of two worlds
    rows: list[torch.Tensor] = []

    class Watch(Protection):
        def collect(self, learner: Any) -> None:
            rows.append(learner.fresh()["observation"].clone())

    agent.protections.append(Watch())
    for name, count in (("a", 80), ("b", 120)):
        agent.begin_skill(name, PointVecEnv(), count)
        agent.learn(count, reset_num_timesteps=False)
        agent.end_skill()
    kept = [perfect.reservoirs[i].columns["observation"] for i in range(2)]
    assert [len(k) for k in kept] == [80, 120]
    assert torch.equal(torch.cat(kept), torch.cat(rows))
    row_bytes = 4 * (3 + 2 + 1 + 3 + 1)  # state, action, reward, next state, end
    assert perfect.bytes == 200 * row_bytes


def test_perfect_memory_trains_by_sacs_own_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    perfect = PerfectMemory(2.0, batch_size=20)
    agent = learning("sac", perfect)
    rows, noise = perfect.sample(agent), torch.randn(20, 2)
    monkeypatch.setattr(perfect, "sample", lambda _: rows)
    monkeypatch.setattr(perfect, "_noise", lambda _: noise)
    squash = SquashedDiagGaussianDistribution(2)
    actor_loss: Any = 0.0
    critic_loss: Any = 0.0
    for (skill, part), own in zip(rows.items(), noise.split(10), strict=True):
        temperature = perfect.temperature[skill]

        def act(seen: torch.Tensor, skill: int = skill, own: torch.Tensor = own) -> Any:
            mean, log_std = agent.gaussian(seen, skill)
            raw = mean + log_std.exp() * own
            squash.proba_distribution(mean, log_std)
            return torch.tanh(raw), squash.log_prob(torch.tanh(raw), raw)[:, None]

        with agent.policy.using(skill):
            with torch.no_grad():
                action, log_prob = act(part["next_observation"])
                value = torch.cat(agent.critic_target(part["next_observation"], action), dim=1)
                value = value.amin(dim=1, keepdim=True) - temperature * log_prob
                goal = part["reward"] + agent.gamma * (1.0 - part["done"]) * value
            for estimate in agent.critic(part["observation"], part["action"]):
                critic_loss = critic_loss + 0.5 * (estimate - goal).square().mean()
            action, log_prob = act(part["observation"])
            least = torch.cat(agent.critic(part["observation"], action), dim=1).amin(dim=1)
            actor_loss = actor_loss + (temperature * log_prob[:, 0] - least).mean()
    actor, critic = list(agent.actor.parameters()), list(agent.critic.parameters())
    assert_gradient(agent, added(agent, perfect.update_critic), 2.0 * critic_loss, critic)
    assert_gradient(agent, added(agent, perfect.update), 2.0 * actor_loss, actor)


def test_perfect_memory_remembers_the_temperature_each_skill_ended_with() -> None:
    perfect = PerfectMemory()
    agent = make_agent("sac", [perfect])
    ended = {}
    for i, name in enumerate("ab"):
        agent.begin_skill(name, PointVecEnv(), 80)
        agent.learn(80, reset_num_timesteps=False)
        ended[i] = float(agent.log_ent_coef.detach().exp())
        agent.end_skill()
    assert perfect.temperature == pytest.approx(ended)
    assert ended[0] < 1.0


@pytest.mark.parametrize(("kind", "build"), EACH)
def test_strength_0_is_unprotected_to_the_bit(kind: str, build: Any) -> None:
    plain, idle = learning(kind, Protection()), learning(kind, build(0.0))
    for a, b in zip(plain.policy.parameters(), idle.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert idle.protection_bytes == 0
    assert getattr(idle, "explore", "random") == "random"


@pytest.mark.parametrize(("kind", "build"), EACH)
def test_training_continues_bit_for_bit_from_its_state(kind: str, build: Any) -> None:
    def began() -> Any:
        return make_agent(kind, [build()], normalize=True)

    def go_on(agent: Any) -> Any:
        agent.learn(80, reset_num_timesteps=False)
        agent.end_skill()
        return agent

    env = PointVecEnv(sign=-1.0)
    agent = began()
    agent.begin_skill("near", PointVecEnv(), 80)
    agent.learn(80)
    agent.end_skill()
    agent.begin_skill("mirror", env, 160)
    agent.learn(80, reset_num_timesteps=False)
    copied = torch.utils._pytree.tree_map(
        lambda v: v.clone() if isinstance(v, torch.Tensor) else v, agent.train_state()
    )
    at = env.get_state()
    other_env = PointVecEnv(sign=-1.0, seed=9)
    other_env.reset()
    whole = go_on(agent)
    other = began()
    other.load_train_state(copied)
    other.set_env(other_env, force_reset=False)
    other_env.set_state(at)
    go_on(other)
    for a, b in zip(whole.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    states = [a.protections[0].state_dict() for a in (whole, other)]
    leaves = [torch.utils._pytree.tree_leaves(state) for state in states]
    assert len(leaves[0]) == len(leaves[1]) > 5
    for x, y in zip(*leaves, strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


@pytest.mark.parametrize("name", ["clonex", "perfect"])
def test_ppo_refuses_what_needs_old_transitions(name: str) -> None:
    with pytest.raises(ValueError, match=r"ppo cannot.*; use sac, or (distill|replay) with ppo"):
        make_agent("ppo", [make_protection(name)])


def test_a_reservoir_takes_no_more_room_than_twice_its_rows_and_gives_it_back() -> None:
    reservoir, generator = Reservoir(10**9), torch.Generator()
    for rows in torch.arange(1000).split(30):
        reservoir.add({"row": rows}, generator)
        assert reservoir.columns["row"].nbytes <= 2 * 8 * reservoir.seen
    reservoir.trim()
    assert torch.equal(reservoir.columns["row"], torch.arange(1000))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CLEAR(capacity=0), "capacity must be >= 1"),
        (lambda: CLEAR(max_grad_norm=float("nan")), "max_grad_norm must be > 0"),
        (lambda: ClonEx(states=0), "states must be >= 1"),
        (lambda: PerfectMemory(batch_size=0), "batch_size must be >= 1"),
    ],
)
def test_bad_arguments_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_nothing_is_pulled_before_a_skill_has_ended(kind: str) -> None:
    for build in NEW[kind]:
        agent = make_agent(kind, [build()])
        agent.begin_skill("near", PointVecEnv(), 80)
        agent.learn(40)
        assert isinstance(agent.policy, nn.Module)
        assert all(not g.any() for g in added(agent, agent.protections[0].update))
