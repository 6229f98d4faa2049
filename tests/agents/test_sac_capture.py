"""SAC's gradient steps as graphs: what is recorded when, here, and on a GPU the graphs themselves.

Without a GPU a recorder stands in for CUDA's: it runs the phases at each launch, and their
gradients are where they were when it recorded.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch

from clrl.agents import make_protection, sac, sac_capture, sac_update
from clrl.agents.sac_capture import CapturedSteps
from clrl.packing import pack, unpack
from tests.agents.conftest import make_agent, same, trained_on
from tests.agents.toy import PointVecEnv

Phases = list[Callable[[], object]]


class Recorder:
    """Phases by graph, and how often each was launched."""

    def __init__(self) -> None:
        self.graphs: list[Phases] = []
        self.launches: list[int] = []

    def record(self, steps: Any, phases: Phases) -> Callable[[], None]:
        index = len(self.graphs)
        self.graphs.append(phases)
        self.launches.append(0)
        lasting = [*steps._lasting(), steps._sums]
        before, random = [tensor.clone() for tensor in lasting], torch.get_rng_state()
        for phase in phases:
            phase()
        parameters = list(steps._agent.policy.parameters())
        gradients = [p.grad for p in parameters]
        with torch.no_grad():
            for tensor, value in zip(lasting, before, strict=True):
                tensor.copy_(value)
        torch.set_rng_state(random)

        def launch() -> None:
            self.launches[index] += 1
            for phase in phases:
                phase()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient.copy_(parameter.grad)

        return launch


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(CapturedSteps, "_record", lambda *args: made.record(*args))
    monkeypatch.setattr(sac, "can_capture", lambda device: True)
    monkeypatch.setattr(sac_capture, "fusing", nullcontext)
    return made


def agent_of(updates: str, *protect: str, **options: Any) -> Any:
    agent = make_agent("sac", [make_protection(name) for name in protect], updates=updates)
    for name, value in options.items():
        setattr(agent, name, value)
    return agent


@pytest.mark.parametrize(
    ("protect", "graphs"),
    [
        ((), 1),
        (("ewc",), 2),  # it looks at the actor's gradient, nothing at the critics'
        (("distill", "replay"), 3),
        (("clonex",), 2),
        (("packnet",), 4),  # fresh moments when it prunes
    ],
)
def test_graphs_learn_what_steps_one_by_one_do(
    protect: tuple[str, ...], graphs: int, recorder: Recorder
) -> None:
    ours = trained_on(agent_of("fast", *protect), "near")
    assert len(recorder.graphs) == graphs
    trained_on(ours, "mirror", sign=-1.0)
    assert len(recorder.graphs) == 2 * graphs  # each skill's head is another
    assert min(recorder.launches) > 5
    plain = trained_on(trained_on(agent_of("eager", *protect), "near"), "mirror", sign=-1.0)
    assert len(recorder.graphs) == 2 * graphs
    assert same(ours, plain)
    assert torch.equal(ours.log_ent_coef, plain.log_ent_coef)
    for name in ("actor_loss", "critic_loss", "ent_coef", "ent_coef_loss"):
        logged = [agent.logger.name_to_value[f"train/{name}"] for agent in (ours, plain)]
        assert logged[0] == logged[1]


@pytest.mark.parametrize("when", ["pre", "post"])
def test_whoever_hooks_an_optimizer_sees_every_step(when: str, recorder: Recorder) -> None:
    agent, seen = agent_of("fast"), []
    register = getattr(agent.actor.optimizer, f"register_step_{when}_hook")
    register(lambda *_: seen.append(agent.num_timesteps))
    trained_on(agent, "near")
    assert len(recorder.graphs) == 2
    assert len(seen) == agent._n_updates > 10


def test_targets_may_follow_in_some_steps_only(recorder: Recorder) -> None:
    options = {"target_update_interval": 3, "gradient_steps": 4}
    assert same(*(trained_on(agent_of(u, **options), "near") for u in ("fast", "eager")))
    assert recorder.launches[0] > 10


def test_what_changes_is_recorded_anew(recorder: Recorder) -> None:
    agent = trained_on(agent_of("fast"), "near")
    count = len(recorder.graphs)
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: setattr(agent, "gamma", 0.5),
        lambda: setattr(agent, "batch_size", 8),
        agent.fresh_moments,
        lambda: agent.load_train_state(unpack(*pack(agent.train_state()))),
    ]
    for i, change in enumerate(changes):
        change()
        agent.learn(40, reset_num_timesteps=False)
        assert len(recorder.graphs) == count + i


def test_learning_rates_reach_the_graphs(recorder: Recorder) -> None:
    agents = []
    for updates in ("fast", "eager"):
        agents.append(agent_of(updates, lr_schedule=lambda left: 1e-2 * (0.1 + left)))
        trained_on(agents[-1], "near")
    rate = agents[0].actor.optimizer.param_groups[0]["lr"]
    assert 0.0 < rate < 1e-2
    assert float(agents[0]._captured._rate) == pytest.approx(rate)
    assert same(*agents)


def test_steps_that_cannot_be_captured_are_taken_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(CapturedSteps, "_record", fail)
    monkeypatch.setattr(sac, "can_capture", lambda device: True)
    monkeypatch.setattr(sac_capture, "fusing", nullcontext)
    with caplog.at_level(logging.WARNING):
        ours = trained_on(agent_of("fast"), "near")
    (said,) = caplog.messages
    assert said.endswith("which costs time: operation not permitted when stream is capturing")
    assert same(ours, trained_on(agent_of("eager"), "near"))


def test_a_cpu_captures_nothing() -> None:
    agent = trained_on(agent_of("fast"), "near")
    assert type(agent._steps(16)) is sac_update.GradientSteps


def on_gpu(updates: str, protect: tuple[str, ...], policy: dict[str, Any]) -> Any:
    """An agent on a GPU that has learned two skills, from the same numbers whatever its updates."""
    options: dict[str, Any] = {"learning_starts": 20, "batch_size": 16, "buffer_size": 500}
    agent = sac.ContinualSAC(
        "MlpPolicy",
        PointVecEnv(),
        seed=0,
        updates=updates,
        protect=[make_protection(name) for name in protect],
        policy_kwargs={"net_arch": [64, 64], **policy},
        device="cuda",
        **options,
    )
    return trained_on(trained_on(agent, "near"), "mirror", sign=-1.0)


def weights(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the numbers drawn for each update: always the same, or shaken by so much."""
    drawn = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).cuda()
    signs = torch.randn(64, 2, generator=torch.Generator().manual_seed(1)).sign().cuda()

    def of(shaken: float) -> None:
        values = drawn * (1.0 + shaken * signs)
        monkeypatch.setattr(sac_update, "_noise", lambda like: values[: len(like)].clone())

    return of


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize(
    ("protect", "policy"),
    [
        ((), {}),
        ((), {"normalize": True, "layer_norm": True}),
        (("ewc",), {}),
        (("distill", "replay"), {"normalize": True}),
        (("packnet",), {}),
        (("clonex",), {"layer_norm": True}),
        (("progressive",), {}),
    ],
)
def test_cuda_graphs_learn_what_launches_do(
    protect: tuple[str, ...], policy: dict[str, Any], draw: Callable[[float], None]
) -> None:
    """They come apart no further than launches do whose noise is shaken in its last bit."""
    draw(0.0)
    ours, plain = (on_gpu(updates, protect, policy) for updates in ("fast", "eager"))
    draw(1.2e-7)
    shaken = on_gpu("eager", protect, policy)
    assert isinstance(ours._captured, CapturedSteps)
    assert ours._captured._launches
    drift = (weights(shaken) - weights(plain)).norm()
    assert (weights(ours) - weights(plain)).norm() < 3.0 * drift + 1e-4 * weights(plain).norm()
    assert ours.logger.name_to_value["train/critic_loss"] == pytest.approx(
        plain.logger.name_to_value["train/critic_loss"], rel=1e-2
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")
def test_cuda_graphs_draw_new_noise_at_each_launch() -> None:
    agent = on_gpu("fast", (), {})
    drawn = []
    for rows in agent.draws(4, 16):
        agent._captured.step(rows, polyak=True)
        drawn.append(agent._captured._here.push.clone())
    assert not any(torch.equal(a, b) for a, b in pairwise(drawn))
