"""Protections against known answers: closed forms, per-sample autograd, statistics."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.func import functional_call, jacrev, vmap

from clrl.agents import (
    EWC,
    OnlineEWC,
    PolicyDistillation,
    Reservoir,
    ReservoirReplay,
    make_protection,
)
from clrl.agents.continual import Continual
from clrl.agents.distillation import gaussian_kl
from clrl.agents.fisher import fisher_diagonal
from clrl.agents.replay import log_likelihood
from tests.agents.conftest import make_agent
from tests.agents.toy import PointVecEnv


class Policy(nn.Module):
    """Mean and log-std that both depend on the trunk, with every kind of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 7), nn.LayerNorm(7)
        self.second, self.out = nn.Linear(7, 5, bias=False), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(
            torch.tanh(self.second(torch.relu(self.norm(self.first(x)))))
        )
        return output

    def gaussian(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self(x).chunk(2, dim=1)
        return mean, 0.3 * log_std - 0.5


def test_fisher_equals_per_sample_autograd() -> None:
    torch.manual_seed(0)
    policy = Policy().double()
    observations = torch.randn(50, 3, dtype=torch.float64)
    layers = [policy.first, policy.norm, policy.second]
    ours = fisher_diagonal(policy.gaussian, layers, observations, chunk=16)

    names = [
        f"{n}.{p}"
        for n, m in zip(("first", "norm", "second"), layers, strict=True)
        for p, _ in m.named_parameters()
    ]
    parameters = {n: p.detach() for n, p in policy.named_parameters()}

    def standard(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        mean, log_std = functional_call(policy, parameters, (x[None],))[0].chunk(2)
        log_std = 0.3 * log_std - 0.5
        return torch.cat((mean * torch.exp(-log_std.detach()), 2**0.5 * log_std))

    jacobians = vmap(jacrev(standard), in_dims=(None, 0))(parameters, observations)
    for name, fisher in zip(names, ours, strict=True):
        expected = jacobians[name].square().sum(dim=1).mean(dim=0)
        torch.testing.assert_close(fisher, expected, rtol=1e-10, atol=1e-12)


def test_fisher_is_the_variance_of_the_score_of_sampled_actions() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(1, 1)
    fisher = fisher_diagonal(
        lambda x: (layer(x), torch.full((len(x), 1), -0.7)), [layer], torch.full((10, 1), 2.0)
    )
    variance = float(np.exp(-0.7) ** 2)
    assert float(fisher[0]) == pytest.approx(4.0 / variance, rel=1e-5)  # x^2 / s^2
    assert float(fisher[1]) == pytest.approx(1.0 / variance, rel=1e-5)


def test_fisher_is_no_squared_batch_mean() -> None:
    layer = nn.Linear(1, 1)
    opposite = torch.tensor([[1.0], [-1.0]])
    fisher = fisher_diagonal(lambda x: (layer(x), torch.zeros(len(x), 1)), [layer], opposite)
    assert float(fisher[0]) == pytest.approx(1.0)  # the mean gradient is 0


def test_fisher_refuses_what_it_cannot_do_exactly() -> None:
    with pytest.raises(ValueError, match="no gradients per sample for a layer of type Conv1d"):
        fisher_diagonal(lambda x: (x, x), [nn.Conv1d(1, 1, 1)], torch.zeros(2, 1))
    with pytest.raises(ValueError, match="at least one observation"):
        fisher_diagonal(lambda x: (x, x), [nn.Linear(1, 1)], torch.zeros(0, 1))


def learned(protection: Any, kind: str = "ppo") -> Any:
    agent = make_agent(kind, [protection])
    agent.begin_skill("near", None, 80)
    agent.learn(80)
    agent.end_skill()
    return agent


def test_ewc_adds_the_gradient_of_its_penalty(kind: str) -> None:
    ewc = EWC(strength=3.0, samples=32)
    agent = learned(ewc, kind)
    parameters = [p for layer in agent.trunk() for p in layer.parameters()]
    everything = torch.cat([f.flatten() for f in ewc.importance])
    assert float(everything.mean()) == pytest.approx(1.0, rel=1e-4)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)
            parameter.grad = torch.ones_like(parameter)
    ewc.update(agent)
    for parameter, fisher in zip(parameters, ewc.importance, strict=True):
        torch.testing.assert_close(parameter.grad, 1.0 + 3.0 * fisher * 0.1)


def test_ewc_sums_or_decays_old_fishers() -> None:
    for ewc, kept in ((EWC(samples=32), 1.0), (OnlineEWC(samples=32, decay=0.5), 0.5)):
        agent = learned(ewc)
        first = [f.clone() for f in ewc.importance]
        ewc.after_skill(agent)
        alone = EWC(samples=32)
        alone.after_skill(agent)
        total = sum(float(f.sum()) for f in ewc.importance)
        size = sum(f.numel() for f in first)
        assert total == pytest.approx((1 + kept) * size, rel=1e-3)


def test_kl_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(6, 3, generator=generator) for _ in range(4))
    expected = kl_divergence(Independent(Normal(a, b.exp()), 1), Independent(Normal(c, d.exp()), 1))
    torch.testing.assert_close(gaussian_kl((a, b), (c, d)), expected)


def test_log_likelihood_is_that_of_torch_up_to_a_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    action, mean, log_std = (torch.randn(6, 3, generator=generator) for _ in range(3))
    difference = Normal(mean, log_std.exp()).log_prob(action).sum(dim=1) - log_likelihood(
        action, mean, log_std
    )
    torch.testing.assert_close(difference, difference[:1].expand(6))


def test_distillation_has_no_gradient_at_its_teacher_and_pulls_back_to_it(kind: str) -> None:
    distill = PolicyDistillation(states=32, batch_size=32, max_grad_norm=1e9, every=1)
    agent = learned(distill, kind)
    trunk = [p for layer in agent.trunk() for p in layer.parameters()]
    for parameter in trunk:
        parameter.grad = None
    distill.update(agent)
    assert max(float(p.grad.abs().max()) for p in trunk) < 1e-4
    with torch.no_grad():
        for parameter in trunk:
            parameter.add_(0.05)
            parameter.grad = None
    distill.update(agent)
    slope = sum(float((p.grad * 0.05).sum()) for p in trunk)
    assert slope > 0.0  # going on in this direction makes the divergence grow


def test_distillation_bounds_its_gradient() -> None:
    distill = PolicyDistillation(strength=2.0, states=32, max_grad_norm=0.01)
    agent = learned(distill)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.5)
            parameter.grad = None
    distill.update(agent)
    norm = torch.cat([p.grad.flatten() for p in agent.policy.parameters() if p.grad is not None])
    assert float(norm.norm()) == pytest.approx(0.02, rel=1e-3)


def test_distillation_rehearses_every_so_many_updates_and_resumes_within_them() -> None:
    protection = PolicyDistillation(states=32, every=3)
    agent = learned(protection)

    def pulled(by: PolicyDistillation) -> bool:
        agent.policy.zero_grad(set_to_none=True)
        by.update(agent)
        return any(p.grad is not None for p in agent.policy.parameters())

    assert [pulled(protection) for _ in range(5)] == [True, False, False, True, False]
    other = PolicyDistillation(every=3)
    other.load_state_dict(protection.state_dict())
    assert [pulled(other) for _ in range(2)] == [False, True]


def test_reservoir_is_uniform() -> None:
    stream, capacity, repeats = 60, 10, 3000
    generator = torch.Generator().manual_seed(0)
    counts = np.zeros(stream)
    for _ in range(repeats):
        reservoir = Reservoir(capacity)
        for batch in torch.arange(stream).split(7):
            reservoir.add({"row": batch}, generator)
        counts[reservoir.columns["row"].numpy()] += 1
    assert counts.sum() == repeats * capacity
    assert stats.chisquare(counts).pvalue > 1e-3


def test_reservoir_stays_uniform_after_it_shrinks() -> None:
    generator = torch.Generator().manual_seed(1)
    counts = np.zeros(40)
    for _ in range(3000):
        reservoir = Reservoir(20)
        reservoir.add({"row": torch.arange(40)}, generator)
        reservoir.shrink(5, generator)
        counts[reservoir.columns["row"].numpy()] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


def test_reservoir_keeps_columns_together_and_its_bytes_bounded() -> None:
    generator = torch.Generator().manual_seed(0)
    reservoir = Reservoir(16)
    for start in range(0, 400, 50):
        rows = torch.arange(start, start + 50)
        reservoir.add({"a": rows.float(), "b": -rows.float()[:, None]}, generator)
        assert sum(c.nbytes for c in reservoir.columns.values()) == 16 * 8
    drawn = reservoir.sample(100, generator)
    assert torch.equal(drawn["a"], -drawn["b"][:, 0])
    assert len(reservoir) == 16


def test_replay_shares_its_capacity_equally(kind: str) -> None:
    replay = ReservoirReplay(capacity=40, tail=1.0)
    agent = make_agent(kind, [replay])
    for i, name in enumerate(("a", "b", "c")):
        agent.begin_skill(name, PointVecEnv(seed=i), 80)
        agent.learn(80, reset_num_timesteps=False)
        agent.end_skill()
    assert [len(r) for r in replay.reservoirs.values()] == [13, 13, 13]
    assert replay.bytes <= 40 * 4 * 16


def test_replay_remembers_only_the_tail_of_a_budget() -> None:
    replay = ReservoirReplay(capacity=1000, tail=0.5)
    agent = make_agent("ppo", [replay])
    agent.begin_skill("a", PointVecEnv(), 160)
    agent.learn(160)
    agent.end_skill()
    assert replay.reservoirs[0].seen == 80


def test_sac_rehearsal_reaches_critic_and_actor() -> None:
    replay = ReservoirReplay(capacity=100, tail=1.0)
    agent = learned(replay, "sac")
    agent.begin_skill("mirror", PointVecEnv(sign=-1.0), 80)
    for parameter in agent.policy.parameters():
        parameter.grad = None
    replay.update(agent)
    replay.update_critic(agent)
    assert agent.actor.mu.layers[0].weight.grad.abs().sum() > 0
    assert agent.critic.qf0[-1].layers[0].weight.grad.abs().sum() > 0
    assert agent.critic.qf0[-1].layers[1].weight.grad is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EWC(-1.0), "strength must be >= 0 and finite, got -1"),
        (lambda: EWC(float("nan")), "strength must be >= 0"),
        (lambda: EWC(samples=0), "samples must be >= 1, got 0"),
        (lambda: EWC(decay=2.0), r"decay must be in \[0, 1\], got 2"),
        (lambda: PolicyDistillation(states=0), "states must be >= 1"),
        (lambda: PolicyDistillation(max_grad_norm=0.0), "max_grad_norm must be > 0"),
        (lambda: ReservoirReplay(capacity=0), "capacity must be >= 1"),
        (lambda: ReservoirReplay(every=0), "every must be >= 1"),
        (lambda: ReservoirReplay(tail=0.0), "tail must be in"),
        (lambda: Reservoir(0), "capacity must be >= 1"),
        (lambda: make_protection("ewk"), "unknown protection 'ewk'; choose from ewc, "),
        (lambda: make_protection("ewc", power=2), "no option 'power'; it takes strength, samples"),
        (lambda: make_protection("replay", capacty=2), "option 'capacty'; did you mean 'capacity'"),
    ],
)
def test_bad_arguments_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def rehearsing(**policy: Any) -> Any:
    """SAC in its third skill, with weights that have moved since, and its replay."""
    replay = ReservoirReplay(capacity=100, tail=1.0, batch_size=20, max_grad_norm=1e9, every=1)
    agent = make_agent("sac", [replay], normalize=True, **policy)
    for i, name in enumerate(("a", "b", "c")):
        agent.begin_skill(name, PointVecEnv(seed=i), 80)
        agent.learn(80, reset_num_timesteps=False)
        if name != "c":
            agent.end_skill()
    return agent


def difference(parameters: list[nn.Parameter], act: Any) -> list[torch.Tensor]:
    """What an act adds to gradients of 1."""
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    act()
    return [p.grad - 1.0 for p in parameters if p.grad is not None]


@pytest.mark.parametrize("policy", [{}, {"multi_head": False}, {"layer_norm": True}])
def test_sac_pulls_its_actor_as_autograd_does(policy: dict[str, Any]) -> None:
    agent = rehearsing(**policy)
    parameters = list(agent.actor.parameters())
    observations = {i: torch.randn(10, 3) for i in range(2)}

    def loss(mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
        return (mean * torch.arange(20)[:, None]).sum() + log_std.square().sum()

    ours = difference(parameters, lambda: agent.pull(observations, loss, 3.0))
    theirs = difference(parameters, lambda: Continual.pull(agent, observations, loss, 3.0))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", [{}, {"multi_head": False}])
def test_sac_rehearses_the_losses_it_states(
    policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = rehearsing(**policy)
    replay, critic = agent.protections[0], agent.critic
    rows, scale = replay._sample(agent)
    monkeypatch.setattr(replay, "_sample", lambda _: (rows, scale))
    halves = [{k: v[:10] for k, v in rows.items()}, {k: v[10:] for k, v in rows.items()}]

    def actor_loss(skill: int, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        mean, log_std = agent.gaussian(rows["observation"], skill)
        with agent.policy.using(skill):
            good = torch.cat(critic(rows["observation"], rows["action"]), dim=1).amin(dim=1)
            own = torch.cat(critic(rows["observation"], torch.tanh(mean)), dim=1).amin(dim=1)
        stored = torch.atanh(rows["action"].clamp(-0.999, 0.999))
        clone = (good >= own).float().detach() * log_likelihood(stored, mean, log_std)
        return -clone.mean() - own.mean()

    def critic_loss(skill: int, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        with agent.policy.using(skill):
            with torch.no_grad():
                action = torch.tanh(agent.gaussian(rows["next_observation"], skill)[0])
                following = agent.critic_target(rows["next_observation"], action)
            value = torch.cat(following, dim=1).amin(dim=1, keepdim=True)
            goal = rows["reward"] / replay.scale[skill]
            goal = goal + agent.gamma * (1.0 - rows["done"]) * value
            estimates = critic(rows["observation"], rows["action"])
        return torch.stack([0.5 * (q - goal).square().mean() for q in estimates]).sum()

    for parameters, update, reference in (
        (list(agent.actor.parameters()), replay.update, actor_loss),
        (list(critic.parameters()), replay.update_critic, critic_loss),
    ):
        ours = difference(parameters, lambda update=update: update(agent))
        loss = torch.stack([reference(i, half) for i, half in enumerate(halves)]).sum()
        expected = torch.autograd.grad(loss, parameters, allow_unused=True)
        for mine, other in zip(ours, expected, strict=True):
            other = torch.zeros_like(mine) if other is None else other
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
