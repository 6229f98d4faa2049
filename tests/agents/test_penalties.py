"""Quadratic penalties against hand computation, autograd and the exact posterior."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from clrl.agents import EWC, L2, MAS, Protection, SynapticIntelligence, make_protection
from clrl.packing import pack, unpack
from tests.agents.conftest import make_agent
from tests.agents.toy import PointVecEnv

PENALTIES = ["ewc", "online-ewc", "l2", "si", "mas"]
EVERY = [*PENALTIES, "agem", "packnet"]


class Line:
    """A learner whose policy is one linear layer with a fixed spread."""

    skill = 0

    def __init__(self, inputs: int, outputs: int = 1, log_std: float = 0.0) -> None:
        self.layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
        self.log_std = log_std
        self.states = torch.zeros(0, inputs)

    def gaussian(self, observations: torch.Tensor, _: int) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.layer(observations)
        return mean, torch.full_like(mean, self.log_std)

    def trunk(self) -> list[nn.Module]:
        return [self.layer]

    def visited(self, _: int) -> torch.Tensor:
        return self.states


def begin(agent: Any, name: str, steps: int = 80, sign: float = 1.0) -> None:
    agent.begin_skill(name, PointVecEnv(sign=sign), steps)
    agent.learn(steps, reset_num_timesteps=False)


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_is_autograds_of_the_penalty(name: str, kind: str) -> None:
    protection: Any = make_protection(name, strength=3.0)
    agent = make_agent(kind, [protection])
    begin(agent, "near")
    agent.end_skill()
    parameters = [p for layer in agent.trunk() for p in layer.parameters()]
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter))
            parameter.grad = torch.zeros_like(parameter)
    penalty = torch.stack(
        [
            (w * (p - a).square()).sum()
            for w, p, a in zip(protection.importance, parameters, protection.anchor, strict=True)
        ]
    ).sum()
    expected = torch.autograd.grad(1.5 * penalty, parameters)
    protection.update(agent)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert flat(p.grad for p in parameters).norm() > 0


def test_l2_weighs_all_alike_and_adds_up(kind: str) -> None:
    l2 = L2()
    agent = make_agent(kind, [l2])
    for skills in (1, 2):
        begin(agent, f"skill {skills}")
        agent.end_skill()
        assert all(torch.equal(w, torch.tensor([float(skills)])) for w in l2.importance)
    weights = sum(p.numel() for layer in agent.trunk() for p in layer.parameters())
    assert weights * 4 < l2.bytes < weights * 4 + 100  # one number a weight


def test_mas_is_the_mean_absolute_sensitivity_by_hand() -> None:
    line, mas = Line(2), MAS()
    with torch.no_grad():
        line.layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
    line.states = torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    # outputs m are -1 and 1; d m^2 / dw = 2 m x is (-2, -2) and (6, 2)
    (measured,) = mas.measure(line)  # type: ignore[arg-type]
    torch.testing.assert_close(measured, torch.tensor([[4.0, 2.0]], dtype=torch.float64))
    mas.after_skill(line)  # type: ignore[arg-type]
    torch.testing.assert_close(
        mas.importance[0], torch.tensor([[4.0 / 3.0, 2.0 / 3.0]], dtype=torch.float64)
    )


@pytest.mark.parametrize("policy", [{}, {"layer_norm": True}])
def test_mas_is_per_sample_autograd_of_the_policy(policy: dict[str, Any]) -> None:
    mas = MAS(samples=40)
    agent = make_agent("sac", [mas], **policy)
    begin(agent, "near")
    observations = torch.randn(40, 3)
    agent.visited = lambda count: observations[:count]
    actor = agent.actor
    parameters = {n: p.detach() for n, p in actor.latent_pi.named_parameters()}

    def norm(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        latent = functional_call(actor.latent_pi, parameters, (x[None],))
        log_std = actor.log_std(latent).clamp(-20.0, 2.0)
        return torch.cat((actor.mu(latent), log_std), dim=1).square().sum()

    expected = vmap(jacrev(norm), in_dims=(None, 0))(parameters, observations)
    for ours, name in zip(mas.measure(agent), parameters, strict=True):
        torch.testing.assert_close(ours, expected[name].abs().mean(dim=0), rtol=1e-4, atol=1e-6)


def test_si_adds_up_to_the_drop_of_the_loss() -> None:
    """With small steps the path integral of the gradient is the loss at its ends."""
    curvature = torch.tensor([[1.0, 10.0, 0.0]], dtype=torch.float64)
    line, si = Line(3), SynapticIntelligence(damping=0.5)
    weight = line.layer.weight
    with torch.no_grad():
        weight.copy_(torch.tensor([[2.0, 1.0, 5.0]]))
    optimizer = torch.optim.SGD([weight], lr=1e-4)
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * curvature * weight.square()).sum().backward()
        si.update(line)  # type: ignore[arg-type]
        optimizer.step()
    start, end = torch.tensor([[2.0, 1.0, 5.0]], dtype=torch.float64), weight.detach()
    drop = 0.5 * curvature * (start.square() - end.square())
    expected = drop / ((start - end).square() + 0.5)
    (measured,) = si.measure(line)  # type: ignore[arg-type]
    torch.testing.assert_close(measured, expected, rtol=2e-3, atol=1e-12)
    assert measured[0, 2] == 0.0


class Path(Protection):
    """Notes the learner's gradient and weights before every step."""

    order = 0

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, learner: Any) -> None:
        parameters = [p for layer in learner.trunk() for p in layer.parameters()]
        self.steps.append((flat(parameters).double(), flat(p.grad for p in parameters).double()))


class Push(Protection):
    """A large gradient that is not the learner's."""

    def update(self, learner: Any) -> None:
        for layer in learner.trunk():
            for parameter in layer.parameters():
                parameter.grad = parameter.grad + 1.0


@pytest.mark.parametrize("updates", ["fast", "sb3"])
def test_si_follows_the_optimizers_path_and_the_learners_gradient(kind: str, updates: str) -> None:
    path, si = Path(), SynapticIntelligence(damping=0.1)
    agent = make_agent(kind, [Push(), path, si], updates=updates)  # in whatever order
    begin(agent, "near")
    parameters = [p for layer in agent.trunk() for p in layer.parameters()]
    weights = [w for w, _ in path.steps] + [flat(parameters).double()]
    total = torch.zeros_like(weights[0])
    for i, (_, gradient) in enumerate(path.steps):
        total -= gradient * (weights[i + 1] - weights[i])
    expected = total.clamp_min(0.0) / ((weights[-1] - weights[0]).square() + 0.1)
    torch.testing.assert_close(
        flat(si.measure(agent)).double(), expected, rtol=1e-3, atol=1e-6 * float(expected.max())
    )
    assert len(path.steps) > 10


def solve(tasks: list[tuple[torch.Tensor, torch.Tensor]], variance: float) -> torch.Tensor:
    """Mode of the posterior of a linear Gaussian model with a flat prior."""
    precision = torch.stack([x.t() @ x for x, _ in tasks]).sum(dim=0) / variance
    pull = torch.stack([x.t() @ y for x, y in tasks]).sum(dim=0) / variance
    mode: torch.Tensor = torch.linalg.solve(precision, pull)
    return mode.t()


def test_ewc_is_exact_where_the_posterior_is_gaussian() -> None:
    """Task after task it reaches the mode for all data at once; L2 does not.

    Laplace's approximation is exact for a linear model with Gaussian noise, its diagonal where the
    inputs are orthogonal; the last task's may be anything. EWC's Fisher is a mean over samples,
    of the same mean in both tasks, so that the strength is the number of samples times that mean.
    """
    random = torch.Generator().manual_seed(0)
    samples, sizes = 30, ([2.0, 1.0, 0.2], [0.5, 0.3, 2.4])
    tasks = []
    for size in sizes:
        q, _ = torch.linalg.qr(torch.randn(samples, 3, generator=random, dtype=torch.float64))
        x = q * (samples * torch.tensor(size, dtype=torch.float64)).sqrt()
        tasks.append((x, torch.randn(samples, 1, generator=random, dtype=torch.float64)))
    last = torch.randn(samples, 3, generator=random, dtype=torch.float64)
    tasks.append((last, torch.randn(samples, 1, generator=random, dtype=torch.float64)))
    log_std = -0.4
    variance = float(torch.tensor(2 * log_std, dtype=torch.float64).exp())
    mean = sum(sizes[0]) / 3 / variance

    def learned(protection: Protection) -> torch.Tensor:
        line: Any = Line(3, log_std=log_std)
        for x, y in tasks:
            optimizer = torch.optim.SGD([line.layer.weight], lr=0.003)
            for _ in range(3000):
                optimizer.zero_grad()
                ((line.layer(x) - y).square().sum() / (2 * variance)).backward()
                protection.update(line)
                optimizer.step()
            line.states = x
            protection.after_skill(line)
        weight: torch.Tensor = line.layer.weight.detach()
        return weight

    joint = solve(tasks, variance)
    torch.testing.assert_close(learned(EWC(samples * mean)), joint, rtol=1e-8, atol=1e-8)
    assert (learned(L2(samples * mean)) - joint).abs().max() > 0.01
    assert (solve(tasks[-1:], variance) - joint).abs().max() > 0.1


@pytest.mark.parametrize("name", EVERY)
def test_strength_0_is_unprotected_to_the_bit(name: str, kind: str) -> None:
    ends = []
    for protect in ([], [make_protection(name, strength=0.0)]):
        agent = make_agent(kind, protect)
        for sign in (1.0, -1.0):
            begin(agent, f"{sign}", sign=sign)
            agent.end_skill()
        ends.append(flat(agent.policy.parameters()))
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", [n for n in EVERY if n != "packnet"])
def test_a_protection_changes_the_second_skill_only(name: str, kind: str) -> None:
    first, second = [], []
    for protect in ([], [make_protection(name)]):
        agent = make_agent(kind, protect)
        begin(agent, "near")
        agent.end_skill()
        first.append(flat(agent.policy.parameters()))
        begin(agent, "mirror", sign=-1.0)
        second.append(flat(agent.policy.parameters()))
    assert torch.equal(*first)
    assert not torch.equal(*second)


@pytest.mark.parametrize("at", [80, 140])  # before and after packnet prunes, too
@pytest.mark.parametrize("name", EVERY)
def test_training_goes_on_bit_for_bit_from_a_checkpoint(name: str, kind: str, at: int) -> None:
    """Through the very bytes of a checkpoint, within the second skill."""
    env = PointVecEnv(sign=-1.0)
    agent = make_agent(kind, [make_protection(name)])
    begin(agent, "near")
    agent.end_skill()
    agent.begin_skill("mirror", env, 160)
    agent.learn(at, reset_num_timesteps=False)
    packed, tensors = pack(agent.train_state())
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    place = env.get_state()
    agent.learn(160 - at, reset_num_timesteps=False)
    agent.end_skill()

    other = make_agent(kind, [make_protection(name)])
    other.load_train_state(unpack(packed, tensors))
    other_env = PointVecEnv(sign=-1.0, seed=9)
    other.set_env(other_env, force_reset=False)
    other_env.set_state(place)
    other.learn(160 - at, reset_num_timesteps=False)
    other.end_skill()
    assert torch.equal(flat(agent.policy.parameters()), flat(other.policy.parameters()))
    mine, theirs = (pack(a.protections[0].state_dict())[1] for a in (agent, other))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_an_earlier_checkpoint_calls_ewcs_importance_fisher() -> None:
    ewc = EWC()
    state = ewc.state_dict()
    del state["importance"]
    ewc.load_state_dict(state | {"fisher": [torch.ones(2)], "anchor": [torch.zeros(2)]})
    assert torch.equal(ewc.importance[0], torch.ones(2))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("l2", {"decay": -0.1}, r"decay must be in \[0, 1\], got -0.1"),
        ("mas", {"samples": 0}, "samples must be >= 1, got 0"),
        ("si", {"damping": 0.0}, "damping must be > 0, got 0"),
        ("online-ewc", {"decay": 1.1}, r"decay must be in \[0, 1\], got 1.1"),
        ("agem", {"strength": 0.5}, "strength of agem must be 0 or 1, got 0.5"),
        ("agem", {"states": 0}, "states must be >= 1, got 0"),
        ("packnet", {"strength": 2.0}, "strength of packnet must be 0 or 1, got 2"),
        ("packnet", {"skills": 0}, "skills must be >= 1, got 0"),
        ("packnet", {"retrain": 1.0}, r"retrain must be in \(0, 1\), got 1"),
        ("compress", {"strength": -1.0}, "strength must be >= 0 and finite, got -1"),
        ("compress", {"steps": 0}, "steps must be >= 1, got 0"),
        ("compress", {"states": 0}, "states must be >= 1, got 0"),
        ("compress", {"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ("compress", {"learning_rate": 0.0}, "learning_rate must be > 0 and finite, got 0"),
    ],
)
def test_bad_arguments_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_protection(name, **options)
