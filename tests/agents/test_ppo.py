"""PPO without a graph is SB3's PPO: its rollouts, its gradients, its updates and its log."""

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn
from torch.distributions import Normal

from clrl.agents import ContinualPPO
from clrl.agents.protection import clip_gradients
from clrl.agents.rows import Rows
from clrl.agents.surrogate import Surrogate
from clrl.agents.tape import Tape
from tests.agents.toy import PointVecEnv

COLUMNS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs")
ESTIMATES = ("advantages", "returns")


def gym_env() -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(gymnasium.make("Pendulum-v1", max_episode_steps=11))] * 3)


def make(kind: Any = ContinualPPO, env: Any = None, **options: Any) -> Any:
    settings = {"n_steps": 40, "batch_size": 20, "device": "cpu", "seed": 0, **options}
    settings["policy_kwargs"] = {"net_arch": [24, 16]} | settings.get("policy_kwargs", {})
    return kind("MlpPolicy", env or PointVecEnv(3), **settings)


def collected(agent: Any, rollouts: int) -> Any:
    """The buffer after some rollouts, without updates between them."""
    agent.train = lambda: None
    agent.learn(rollouts * agent.n_steps * agent.n_envs)
    return agent.rollout_buffer


@pytest.mark.parametrize("make_env", [lambda: PointVecEnv(3), gym_env])
def test_rollouts_are_those_of_sb3(make_env: Any) -> None:
    ours = make(env=make_env())
    mine = collected(ours, 2)
    peer = make(PPO, env=make_env())  # seeds all generators anew
    theirs = collected(peer, 2)
    for name in COLUMNS + ESTIMATES:
        a, b = getattr(mine, name), getattr(theirs, name)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=name)
    assert mine.episode_starts.sum() > 3  # some episodes were cut off
    assert ours.num_timesteps == peer.num_timesteps
    np.testing.assert_allclose(ours._last_obs, peer._last_obs, atol=2e-5)
    episodes = [[e["l"] for e in agent.ep_info_buffer] for agent in (ours, peer)]
    assert episodes[0] == episodes[1]
    assert episodes[0]
    assert list(ours.ep_success_buffer) == list(peer.ep_success_buffer)


def test_a_cut_off_episode_earns_the_value_of_where_it_was_cut_off() -> None:
    agent = make(gamma=0.9)
    seen: list[Any] = []
    agent.train = lambda: None

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        seen.append((local["rewards"].copy(), local["infos"]))
        return True

    agent.learn(120, callback=watch)
    bonus = agent.rollout_buffer.rewards - np.array([rewards for rewards, _ in seen])
    for step, (_, infos) in enumerate(seen):
        for world, info in enumerate(infos):
            expected = 0.0
            if info:
                last = torch.as_tensor(info["terminal_observation"])[None]
                expected = 0.9 * agent.policy.predict_values(last).item()
            assert bonus[step, world] == pytest.approx(expected, abs=1e-6)


def test_a_callback_can_stop_a_rollout() -> None:
    agent = make()
    before = copy.deepcopy(agent.policy.state_dict())
    agent.learn(500, callback=lambda local, _: local["n_steps"] < 5)
    assert agent.num_timesteps == 6 * 3
    assert all(torch.equal(before[k], v) for k, v in agent.policy.state_dict().items())


def test_a_callback_finds_the_whole_rollout_at_its_end() -> None:
    from stable_baselines3.common.callbacks import BaseCallback

    class Look(BaseCallback):
        values: Any = None

        def _on_step(self) -> bool:
            return set(self.locals) >= {"new_obs", "rewards", "dones", "infos", "actions"}

        def _on_rollout_end(self) -> None:
            buffer = self.locals["rollout_buffer"]
            self.values = np.concatenate((buffer.values, buffer.log_probs, buffer.returns))

    look = Look()
    agent = make().learn(120, callback=look)
    assert agent.num_timesteps == 120
    assert (look.values != 0).all()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip_range_vf": 0.05, "clip_range": 0.02},
    {"normalize_advantage": False, "ent_coef": 0.01, "vf_coef": 0.7},
    {"policy_kwargs": {"activation_fn": nn.ReLU, "normalize": True}},
    {"policy_kwargs": {"net_arch": {"pi": [24], "vf": [16, 16, 8]}, "multi_head": False}},
    {"target_kl": 1e-5, "max_grad_norm": 0.01},
    {"batch_size": 50, "policy_kwargs": {"net_arch": []}},  # the last batch is smaller
]


def twins(**options: Any) -> tuple[Any, Any]:
    """A fast agent and SB3's with the same weights and the same rollout."""
    fast, slow = make(updates="fast", **options), make(updates="sb3", **options)
    train = type(slow).train
    collected(slow, 2)
    fast._setup_learn(1)
    fast.rollout_buffer = copy.deepcopy(slow.rollout_buffer)
    for agent in (fast, slow):
        agent.train = lambda agent=agent: train(agent)
    return fast, slow


def trained(agent: Any, times: int) -> dict[str, Any]:
    np.random.seed(1)  # noqa: NPY002  # SB3 draws minibatches with it
    for _ in range(times):
        agent.train()
    return dict(agent.logger.name_to_value)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("options", OPTIONS)
def test_an_update_is_that_of_sb3(options: dict[str, Any]) -> None:
    fast, slow = twins(n_epochs=1, **{"batch_size": 120} | options)
    logs = [trained(agent, 1) for agent in (fast, slow)]
    for mine, theirs in zip(fast.policy.parameters(), slow.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert {k: v for k, v in logs[0].items() if k != "train/approx_kl"} == pytest.approx(
        {k: v for k, v in logs[1].items() if k != "train/approx_kl"}, abs=1e-5
    )


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("options", OPTIONS)
def test_100_updates_are_those_of_sb3(options: dict[str, Any]) -> None:
    fast, slow = twins(n_epochs=17, **options)
    start = [p.detach().clone() for p in fast.policy.parameters()]
    logs = [trained(agent, 1) for agent in (fast, slow)]
    pairs = zip(fast.policy.parameters(), slow.policy.parameters(), start, strict=True)
    for mine, theirs, before in pairs:
        moved = (theirs.detach() - before).abs().max()
        # Adam divides by the gradient's size, so that rounding counts most where there is none.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=float(2e-3 * moved))
    assert logs[0] == pytest.approx(logs[1], rel=1e-3, abs=1e-4)
    assert fast._n_updates == slow._n_updates


def test_a_policy_of_another_kind_is_left_to_sb3() -> None:
    options: dict[str, Any] = {"policy_kwargs": {"activation_fn": nn.ELU}}
    ours, peer = make(**options).learn(240), make(PPO, **options).learn(240)
    for mine, theirs in zip(ours.policy.parameters(), peer.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_unknown_updates_are_refused() -> None:
    with pytest.raises(ValueError, match="updates must be one of fast, eager, sb3, got 'slow'"):
        make(updates="slow")


@pytest.mark.parametrize("clip_value", [None, 0.3])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_gradient_is_that_of_autograd(clip_value: float | None, normalize: bool) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        n, act = 60, 3
        loss = Surrogate(0.2, clip_value, 0.03, 0.6, normalize)
        mean, value = torch.randn(n, act, requires_grad=True), torch.randn(n, requires_grad=True)
        log_std = torch.randn(act, requires_grad=True)
        rows = Rows(*(torch.randn(n, act) for _ in range(2)), *(torch.randn(n) for _ in range(4)))
        density = Normal(mean, log_std.exp()).log_prob(rows.action).sum(dim=1)
        rows.log_prob.copy_(density.detach() + 0.3 * torch.randn(n))
        expected = torch.autograd.grad(
            _as_sb3(loss, rows, density, log_std, value), (mean, log_std, value)
        )
        with torch.no_grad():
            policy = loss.policy(rows, loss.constants(rows, log_std), mean)
            by_value, _ = loss.value(rows, value[:, None])
        ours = (policy.mean, loss.by_log_std(policy), by_value.flatten())
        torch.testing.assert_close(ours, expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_gradients_are_clipped_as_torch_clips_them(size: float) -> None:
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.zeros(n, 7)) for n in (1, 5, 30)] for _ in range(2))
    for mine, other in zip(ours[:2], theirs[:2], strict=True):  # the last has none
        mine.grad = size * torch.randn_like(mine)
        other.grad = mine.grad.clone()
    clip_gradients(ours, 0.5)
    nn.utils.clip_grad_norm_(theirs, 0.5)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad)
    assert ours[2].grad is None


def _as_sb3(
    loss: Surrogate, rows: Rows, density: Any, log_std: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    advantage = rows.advantage
    if loss.normalize:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = (density - rows.log_prob).exp()
    clipped = ratio.clamp(1 - loss.clip, 1 + loss.clip)
    policy = -torch.min(advantage * ratio, advantage * clipped).mean()
    if loss.clip_value is not None:
        moved = (value - rows.value).clamp(-loss.clip_value, loss.clip_value)
        value = rows.value + moved
    entropy = Normal(torch.zeros_like(log_std), log_std.exp()).entropy().sum()
    squares = nn.functional.mse_loss(rows.target, value)
    total: torch.Tensor = policy - loss.ent_coef * entropy + loss.vf_coef * squares
    return total


@pytest.mark.parametrize("batch", [7, 400])  # small and large products go to different libraries
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_a_tape_is_its_network(batch: int, activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(20, 96), activation(), nn.Linear(96, 80), activation(), nn.Linear(80, 3)
    )
    x, weight = torch.randn(batch, 20), torch.randn(batch, 3)
    expected = network(x)
    gradients = torch.autograd.grad((expected * weight).sum(), list(network.parameters()))
    tape = Tape(network)
    with torch.no_grad():
        torch.testing.assert_close(tape.forward(x), expected.detach(), rtol=1e-5, atol=1e-5)
        tape.backward(weight)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)
