"""What ContinualSAC has of Continual World's SAC beyond Stable-Baselines3's."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clrl.agents import ContinualSAC
from clrl.agents.fisher import fisher_diagonal
from tests.agents.conftest import SAC_OPTIONS
from tests.agents.toy import PointVecEnv

NETWORK = {"net_arch": [8, 8, 8], "layer_norm": True}


def agent(**options: Any) -> Any:
    return ContinualSAC("MlpPolicy", PointVecEnv(n=4), seed=0, **{**SAC_OPTIONS, **options})


def test_layer_norm_and_tanh_follow_the_first_layer_only() -> None:
    policy = agent(policy_kwargs=NETWORK).policy
    kinds = [nn.Linear, nn.LayerNorm, nn.Tanh, nn.Linear, nn.LeakyReLU, nn.Linear, nn.LeakyReLU]
    assert all(map(isinstance, policy.actor.latent_pi, kinds))
    assert len(policy.actor.latent_pi) == len(kinds)
    for critic in (policy.critic, policy.critic_target):
        for network in critic.q_networks:
            assert all(map(isinstance, network, kinds))
            assert network[4].negative_slope == 0.2
    for q, target in zip(
        policy.critic.parameters(), policy.critic_target.parameters(), strict=True
    ):
        assert torch.equal(q, target)


def test_layer_norm_is_trained_and_has_a_fisher() -> None:
    ours = agent(policy_kwargs=NETWORK)
    before = ours.actor.latent_pi[1].weight.detach().clone()
    ours.begin_skill("only")
    ours.learn(60)
    assert not torch.equal(before, ours.actor.latent_pi[1].weight)
    observations = torch.randn(16, 3)
    layers = ours.trunk()
    assert any(isinstance(layer, nn.LayerNorm) for layer in layers)
    diagonal = fisher_diagonal(lambda o: ours.gaussian(o, 0), layers, observations)
    assert all(bool((f >= 0).all()) for f in diagonal)
    assert sum(float(f.sum()) for f in diagonal) > 0


def three_heads(explore: str) -> Any:
    """An agent that warms up in its third skill; head k acts k - 0.5 in both directions."""
    ours = agent(explore=explore, learning_starts=40)
    for name in ("one", "two", "three"):
        ours.begin_skill(name, PointVecEnv(n=4))
        ours._setup_learn(100, reset_num_timesteps=False)
    for k in range(2):
        mean, spread = ours.actor.mu.layers[k], ours.actor.log_std.layers[k]
        for layer, value in ((mean, np.arctanh(k - 0.5)), (spread, -20.0)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, float(value))
    return ours


def test_earlier_heads_take_turns_while_a_skill_warms_up() -> None:
    ours = three_heads("best-head")
    action, scaled = ours._sample_action(40, n_envs=4)
    np.testing.assert_allclose(action, np.array([[-0.5] * 2, [0.5] * 2] * 2), atol=1e-5)
    np.testing.assert_allclose(scaled, action, atol=1e-6)


@pytest.mark.parametrize("best", [0, 1])
def test_then_the_head_that_earned_most_acts(best: int) -> None:
    ours = three_heads("best-head")
    ours.num_timesteps = 24
    ours.replay_buffer.pos = 6
    earned = [1.0, 0.0] * 2 if best == 0 else [0.0, 1.0] * 2
    ours.replay_buffer.rewards[:6] = torch.tensor(earned)
    action, _ = ours._sample_action(40, n_envs=4)
    np.testing.assert_allclose(action, best - 0.5, atol=1e-5)


def test_the_first_skill_and_random_exploration_are_sb3s() -> None:
    ours = three_heads("random")
    actions = np.concatenate([ours._sample_action(40, n_envs=4)[0] for _ in range(50)])
    assert np.abs(actions).max() > 0.9
    first = agent(explore="best-head")
    first.begin_skill("one")
    first._setup_learn(100)
    assert first._sample_action(40, n_envs=4)[0].shape == (4, 2)


def test_an_unknown_way_to_explore_is_refused() -> None:
    with pytest.raises(ValueError, match="explore must be 'random' or 'best-head', got 'often'"):
        agent(explore="often")


def test_layer_norm_without_a_hidden_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="layer_norm needs a hidden layer"):
        agent(policy_kwargs={"net_arch": [], "layer_norm": True})
