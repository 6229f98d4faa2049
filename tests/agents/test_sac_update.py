"""SAC's fast gradient steps against Stable-Baselines3's, and the buffer and layers they use.

Two float32 runs part through rounding alone, and Adam enlarges it wherever a gradient is near 0. So
the measure is a float64 run of SB3's own code on the same batches and noise: the fast path has to
stay as near to it as SB3's float32 does.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from clrl.agents import ContinualSAC, make_agent, sac_update
from clrl.agents.buffer import TensorReplayBuffer
from clrl.agents.tape import Tape
from tests.agents.conftest import SAC_OPTIONS
from tests.agents.toy import PointVecEnv

OBS, ACT, BATCH = 11, 3, 32
SPACES = (spaces.Box(-9, 9, (OBS,), np.float32), spaces.Box(-1, 1, (ACT,), np.float32))
Batches = list[tuple[torch.Tensor, ...]]


def build(updates: str, skills: int = 1, **options: Any) -> Any:
    policy = {"net_arch": [256, 256]} | options.pop("policy_kwargs", {})
    agent: Any = make_agent(
        "sac", *SPACES, buffer_size=10, updates=updates, policy_kwargs=policy, **options
    )
    for i in range(skills):
        agent.begin_skill(f"skill {i}")
    agent.set_logger(configure(None, []))
    agent._skill_start, agent.num_timesteps = 0, 10**6
    agent._current_progress_remaining = 1.0
    features = agent.policy.features
    random = torch.Generator().manual_seed(1)
    if features.normalize:
        features.mean.copy_(torch.randn(features.mean.shape, generator=random))
        features.var.copy_(torch.rand(features.var.shape, generator=random) + 0.5)
    return agent


def batches(count: int) -> Batches:
    """Observation, action, next observation, done, reward and two draws of noise, per step."""
    random = torch.Generator().manual_seed(2)

    def one() -> tuple[torch.Tensor, ...]:
        normal = [torch.randn(BATCH, n, generator=random) for n in (OBS, ACT, OBS, 1, 1, ACT, ACT)]
        observation, action, following, done, reward, *noise = normal
        return (observation, action.tanh(), following, (done > 1.5).float(), 10 * reward, *noise)

    return [one() for _ in range(count)]


def run(agent: Any, data: Batches, patch: pytest.MonkeyPatch, dtype: torch.dtype) -> torch.Tensor:
    """All weights after training on given batches with given noise."""
    data = [tuple(t.to(dtype) for t in batch) for batch in data]
    noise: Iterator[torch.Tensor] = iter(t for batch in data for t in batch[5:])
    samples = iter(ReplayBufferSamples(*batch[:5]) for batch in data)
    with patch.context() as context:
        context.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: next(noise))
        context.setattr(agent.replay_buffer, "sample", lambda *_, **__: next(samples))
        context.setattr(agent.replay_buffer, "draw", lambda steps, _: [None] * steps)
        context.setattr(agent.replay_buffer, "gather", lambda _: next(samples))
        context.setattr(sac_update, "_noise", lambda _: torch.cat((next(noise), next(noise))))
        context.setattr(
            "stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs
        )
        agent.train(len(data), BATCH)
    assert next(samples, None) is None
    return weights(agent)


def weights(agent: Any) -> torch.Tensor:
    own = [p.detach().double().flatten() for p in agent.policy.parameters()]
    return torch.cat([*own, *([] if agent.log_ent_coef is None else [agent.log_ent_coef.detach()])])


def in_double(agent: Any) -> Any:
    agent.policy.double()
    if agent.log_ent_coef is not None:
        agent.log_ent_coef = agent.log_ent_coef.detach().double().requires_grad_()
        agent.ent_coef_optimizer = torch.optim.Adam([agent.log_ent_coef], lr=agent.lr_schedule(1))
    else:
        agent.ent_coef_tensor = agent.ent_coef_tensor.double()
    return agent


@pytest.mark.parametrize("steps", [1, 100])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ent_coef": 0.2, "target_update_interval": 3, "tau": 0.05},
        {"policy_kwargs": {"net_arch": [256] * 4}},
        {"policy_kwargs": {"net_arch": [64] * 4, "layer_norm": True}},
        {"policy_kwargs": {"net_arch": [64, 64], "normalize": True}, "ent_coef": "auto_0.3"},
        {"policy_kwargs": {"net_arch": [64, 64], "normalize": True}, "skills": 2},
        {"policy_kwargs": {"net_arch": [64, 64], "multi_head": False}, "skills": 2},
        {"policy_kwargs": {"net_arch": [64], "activation_fn": nn.Tanh, "n_critics": 3}},
        {"policy_kwargs": {"net_arch": []}},
    ],
    ids=["2x256", "fixed", "4x256", "norm", "normalize", "heads", "one-hot", "tanh", "no-layers"],
)
def test_a_step_is_sb3s(
    options: dict[str, Any], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = batches(steps)
    start = weights(build("sb3", **options))
    reference = run(in_double(build("sb3", **options)), data, monkeypatch, torch.float64)
    theirs = run(build("sb3", **options), data, monkeypatch, torch.float32)
    fast = build("fast", **options)
    assert sac_update.supports(fast)
    ours = run(fast, data, monkeypatch, torch.float32)
    moved = (reference - start).norm()
    assert moved > 0
    drift = float((theirs - reference).norm() / moved)
    assert float((ours - reference).norm() / moved) < 3.0 * drift + 1e-4


def test_whoever_looks_on_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Critics step one by one, or together where somebody sees the gradients of both."""
    seen: list[int] = []

    def look(optimizer: Any, *_: object) -> None:
        gradients = (p.grad is not None for p in optimizer.param_groups[0]["params"])
        seen.append(sum(gradients))

    data, alone, watched = batches(12), build("fast"), build("fast")
    watched.critic.optimizer.register_step_pre_hook(look)
    ends = [run(agent, data, monkeypatch, torch.float32) for agent in (alone, watched)]
    assert torch.equal(*ends)
    assert seen == [len(list(watched.critic.parameters()))] * 12


def test_what_is_logged_is_sb3s(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, float]] = []
    for updates in ("sb3", "fast"):
        agent = build(updates)
        run(agent, batches(5), monkeypatch, torch.float32)
        logged.append(dict(agent.logger.name_to_value))
    assert logged[0].keys() == logged[1].keys()
    for name, value in logged[0].items():
        assert logged[1][name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize(
    "options",
    [
        {"policy_kwargs": {"activation_fn": nn.GELU}},
        {"policy_kwargs": {"optimizer_class": torch.optim.SGD}},
        {"n_steps": 3},
        {"replay_buffer_class": ReplayBuffer},
    ],
    ids=["layer", "optimizer", "n-step", "buffer"],
)
def test_what_the_fast_path_does_not_know_sb3s_does(options: dict[str, Any]) -> None:
    agent = ContinualSAC("MlpPolicy", PointVecEnv(), seed=0, **{**SAC_OPTIONS, **options})
    agent.begin_skill("only")
    before = weights(agent)
    agent.learn(60)
    assert not sac_update.supports(agent)
    assert not torch.equal(weights(agent), before)


def test_a_normalising_wrapper_is_left_to_sb3() -> None:
    agent: Any = ContinualSAC("MlpPolicy", VecNormalize(PointVecEnv()), seed=0, **SAC_OPTIONS)
    agent.learn(80)
    assert not sac_update.supports(agent)


def test_updates_are_fast_or_sb3s() -> None:
    with pytest.raises(ValueError, match="updates must be one of fast, eager, sb3, got 'quick'"):
        build("quick")


def filled(size: int, worlds: int, count: int) -> tuple[TensorReplayBuffer, ReplayBuffer]:
    ours = TensorReplayBuffer(size, *SPACES, "cpu", worlds)
    theirs = ReplayBuffer(size, *SPACES, "cpu", worlds)
    random = np.random.default_rng(0)
    for _ in range(count):
        row: Any = [random.normal(size=(worlds, n)).astype(np.float32) for n in (OBS, OBS, ACT)]
        reward, done = random.normal(size=worlds), random.integers(0, 2, worlds)
        infos = [{"TimeLimit.truncated": bool(random.integers(2))} for _ in range(worlds)]
        for buffer in (ours, theirs):
            buffer.add(row[0], row[1], row[2], reward, done, infos)
    return ours, theirs


@pytest.mark.parametrize("count", [5, 33])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_buffer_samples_what_sb3s_does(count: int, normalise: bool) -> None:
    ours, theirs = filled(60, 3, count)
    env: Any = None
    if normalise:
        env = VecNormalize(PointVecEnv())
        env.obs_rms = RunningMeanStd(shape=(OBS,))
        env.obs_rms.mean, env.obs_rms.var = np.arange(OBS) / 9, np.arange(1, OBS + 1) / 5
        env.ret_rms.var = np.float64(3.0)
    assert (ours.pos, ours.full) == (theirs.pos, theirs.full)
    drawn = []
    for buffer in (ours, theirs):
        np.random.seed(3)  # noqa: NPY002  # SB3's generator
        drawn.append(buffer.sample(50, env))
    for mine, other in zip(drawn[0][:5], drawn[1][:5], strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, other.float())


def test_the_buffer_draws_every_stored_transition_equally() -> None:
    buffer, _ = filled(60, 3, 5)
    torch.manual_seed(0)
    indices = buffer.draw(30, 100)
    assert indices.shape == (30, 100)
    counts = torch.bincount(indices.flatten(), minlength=15)
    assert len(counts) == 15
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    batch = buffer.gather(torch.arange(15))
    assert torch.equal(batch.observations, buffer.observations[:5].flatten(0, 1))


def test_a_saved_buffer_comes_back(tmp_path: Any) -> None:
    agent = build("fast")
    agent.replay_buffer, _ = filled(60, 1, 20)
    agent.save_replay_buffer(tmp_path / "buffer")
    other = build("fast")
    other.load_replay_buffer(tmp_path / "buffer", trust_pickle=True)
    assert other.replay_buffer.size() == 20
    assert torch.equal(other.replay_buffer.observations[:20], agent.replay_buffer.observations[:20])


def test_a_tape_gives_the_gradients_it_is_asked_for() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(5, 80), nn.LayerNorm(80), nn.Tanh(), nn.Linear(80, 90), nn.LeakyReLU(0.2),
        nn.Linear(90, 7), nn.ReLU(), nn.Linear(7, 2),
    )  # fmt: skip
    x, upstream = torch.randn(9, 5, requires_grad=True), torch.randn(9, 2)
    expected = torch.autograd.grad(network(x), [x, *network.parameters()], upstream)
    tape = Tape(network)
    with torch.no_grad():
        torch.testing.assert_close(tape.forward(x.detach()), network(x))
        assert tape.backward(upstream, weights=False) is None
        assert all(p.grad is None for p in network.parameters())
        columns = tape.backward(upstream, inputs=slice(2, 4))
    torch.testing.assert_close(columns, expected[0][:, 2:4])
    for parameter, gradient in zip(network.parameters(), expected[1:], strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(
    "network", [nn.Sequential(nn.ReLU()), nn.Sequential(nn.Linear(1, 1), nn.GELU())]
)
def test_a_tape_refuses_what_it_does_not_know(network: nn.Module) -> None:
    assert not Tape.supports(network)


def test_a_tape_leaves_layers_it_does_not_know_to_autograd() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.ReLU(), nn.PReLU(), nn.Linear(7, 2))
    assert not Tape.supports(network)
    x, gradient = torch.randn(6, 5), torch.randn(6, 2)
    x.requires_grad_()
    expected = torch.autograd.grad(network(x), [x, *network.parameters()], gradient)
    tape = Tape(network)
    with torch.no_grad():
        tape.forward(x.detach())
        by_x = tape.backward(gradient.clone(), inputs=slice(None))
    found = [by_x, *(p.grad for p in network.parameters())]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
