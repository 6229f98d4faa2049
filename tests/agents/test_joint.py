"""Joint PPO: each skill's part is PPO's own, an update their mean; PopArt's invariants."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from clrl.agents import EWC, ContinualPPO, JointPPO
from clrl.agents.joint import JointNetworks
from clrl.agents.popart import PopArt
from clrl.agents.rows import Rows
from clrl.agents.tape import Tape
from clrl.envs.side_by_side import SideBySide
from tests.agents.conftest import begun, reaches, same, side_by_side
from tests.agents.toy import PointVecEnv

OPTIONS: dict[str, Any] = {"n_steps": 20, "n_epochs": 2, "device": "cpu", "seed": 0}


def joint(worlds: tuple[int, ...] = (2, 3), batch_size: int = 25, **options: Any) -> Any:
    """A joint agent on the toy task under one sign after another, its skills begun."""
    policy = {"net_arch": [16, 16], "normalize": True} | options.pop("policy_kwargs", {})
    settings = OPTIONS | {"batch_size": batch_size, "policy_kwargs": policy} | options
    return begun(JointPPO("MlpPolicy", side_by_side(*worlds), **settings), len(worlds))


def test_one_skill_alone_is_ppo_to_the_bit() -> None:
    policy = {"net_arch": [16, 16], "normalize": True}
    alone = ContinualPPO(
        "MlpPolicy", PointVecEnv(4), batch_size=20, policy_kwargs=policy, **OPTIONS
    )
    alone.begin_skill("skill 0", steps=1000)
    assert same(alone.learn(400), joint((4,), batch_size=20).learn(400))


def test_an_update_takes_the_mean_of_the_skills_own_gradients_as_sb3_has_them() -> None:
    agent = joint(ent_coef=0.03, vf_coef=0.7)
    agent.learn(300)
    agent.train = lambda: None
    agent.learn(100, reset_num_timesteps=False)  # rollouts that nothing was trained on
    networks, batches, losses = [], [], []
    for skill, buffer in enumerate(agent._buffers):
        with agent.policy.using(skill):
            own = agent._networks()
            rows = Rows.of(buffer, own.features)
            networks.append(own)
            batches.append(rows)
            losses.append(sb3_loss(agent, buffer, rows))
    expected = torch.autograd.grad(sum(losses) / 2, list(agent.policy.parameters()))
    agent.policy.zero_grad()
    JointNetworks(networks).differentiate(agent._surrogate(), batches)
    for parameter, gradient in zip(agent.policy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def sb3_loss(agent: Any, buffer: Any, rows: Rows) -> Any:
    """As `stable_baselines3.PPO.train` writes it, of the selected skill."""
    seen = torch.as_tensor(buffer.swap_and_flatten(buffer.observations))
    values, log_prob, entropy = agent.policy.evaluate_actions(seen, rows.action)
    advantages = (rows.advantage - rows.advantage.mean()) / (rows.advantage.std() + 1e-8)
    ratio = torch.exp(log_prob - rows.log_prob)
    clipped = advantages * torch.clamp(ratio, 1 - 0.2, 1 + 0.2)
    policy_loss = -torch.min(advantages * ratio, clipped).mean()
    value_loss = functional.mse_loss(rows.target, values.flatten())
    return policy_loss - agent.ent_coef * entropy.mean() + agent.vf_coef * value_loss


def test_every_skill_keeps_its_own_statistics_and_every_row_is_used() -> None:
    agent = joint((2, 3))
    agent.learn(100)  # one rollout
    assert agent.num_timesteps == 100
    assert agent.policy.features.count[:3].tolist() == [40.0, 60.0, 0.0]
    assert agent._n_updates == 2  # epochs, as SB3 counts
    means = agent.policy.features.mean
    for skill, buffer in enumerate(agent._buffers):
        seen = buffer.observations.reshape(-1, 3)
        np.testing.assert_allclose(means[skill], seen.mean(axis=0), atol=1e-5)


def test_two_skills_are_learned_at_once() -> None:
    agent = joint((8, 8), batch_size=80, learning_rate=3e-3, gamma=0.9, n_epochs=5)
    agent.learn(16_000)
    assert reaches(agent)


def test_joint_training_continues_bit_for_bit_from_its_state() -> None:
    agent = joint(popart=True)
    agent.learn(200)
    env: Any = agent.env
    state, at = agent.train_state(), env.get_state()
    state = torch.utils._pytree.tree_map(
        lambda v: v.clone() if isinstance(v, torch.Tensor) else v, state
    )
    agent.learn(200, reset_num_timesteps=False)
    other_env = side_by_side(2, 3)
    other_env.reset()
    other = JointPPO("MlpPolicy", other_env, popart=True, **settings_of(agent))
    other.load_train_state(state)
    other.set_env(other_env, force_reset=False)
    other_env.set_state(at)
    other.learn(200, reset_num_timesteps=False)
    assert same(agent, other)


def settings_of(agent: Any) -> dict[str, Any]:
    policy = {"net_arch": [16, 16], "normalize": True}
    return OPTIONS | {"batch_size": agent.batch_size, "policy_kwargs": policy}


def test_it_saves_and_loads_as_sb3_does(tmp_path: Any) -> None:
    agent = joint(popart=True).learn(200)
    agent.save(tmp_path / "agent")
    loaded = JointPPO.load(tmp_path / "agent", env=side_by_side(2, 3), trust_pickle=True)
    assert same(agent, loaded)
    loaded.learn(100, reset_num_timesteps=False)


def test_popart_preserves_values_while_its_scale_moves() -> None:
    torch.manual_seed(0)
    popart, head = PopArt(3), nn.Linear(16, 1)
    latent = torch.randn(50, 16)

    def values() -> torch.Tensor:
        with torch.no_grad():
            value: torch.Tensor = head(latent) * popart.std(1) + popart.mean[1]
        return value

    before, size = values(), 1.0
    for scale, shift in ((1.0, 0.0), (300.0, -2000.0), (0.01, 5.0)):
        popart.update(1, scale * torch.randn(500) + shift, head)
        size = max(size, float(popart.std(1) + popart.mean[1].abs()))
        torch.testing.assert_close(values(), before, rtol=0, atol=1e-6 * size)
        before = values()
    assert popart.mean[0] == 0.0
    assert popart.std(2) == 1.0


def test_popart_finds_the_moments_of_the_returns() -> None:
    popart, returns = PopArt(1), 30.0 * torch.randn(1000) + 100.0
    popart.update(0, returns, nn.Linear(1, 1))
    assert float(popart.mean[0]) == pytest.approx(float(returns.double().mean()), rel=1e-6)
    assert float(popart.std(0)) == pytest.approx(float(returns.double().std()), rel=1e-3)


def test_a_scaled_critic_learns_in_units_of_its_scale() -> None:
    torch.manual_seed(0)
    popart, network = PopArt(1), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    popart.update(0, 200.0 * torch.randn(99) - 50.0, network[-1])
    x, target = torch.randn(20, 4), 200.0 * torch.randn(20, 1)
    mean, std = popart.mean[0].float(), popart.std(0).float()
    loss = (network(x) - (target - mean) / std).square().mean()
    expected = torch.autograd.grad(loss, list(network.parameters()))
    critic = popart.critic(0, Tape(network))
    with torch.no_grad():
        value = critic.forward(x)
        critic.backward(2.0 * (value - target) / len(x))
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("popart", [True, False])
def test_with_popart_the_scale_of_rewards_does_not_matter(popart: bool) -> None:
    class Rich(PointVecEnv):
        scale = 1.0

        def step_wait(self) -> Any:
            observation, reward, done, infos = super().step_wait()
            return observation, self.scale * reward, done, infos

    policies = []
    for scale in (1.0, 1024.0):
        env = SideBySide([Rich(2), Rich(3, -1.0, seed=1)])
        env.parts[0].scale = scale  # type: ignore[attr-defined]
        options = OPTIONS | {"batch_size": 25, "popart": popart}
        agent = JointPPO("MlpPolicy", env, policy_kwargs={"net_arch": [16, 16]}, **options)
        for name in "ab":
            agent.begin_skill(name)
        for head in agent.policy.value_net.layers:  # the first values are 0 on either scale
            nn.init.zeros_(head.weight)
        policies.append(torch.cat([p.flatten() for p in agent.learn(300).policy.parameters()]))
    far = float((policies[0] - policies[1]).detach().abs().max())
    assert far < 1e-4 if popart else far > 1e-2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: joint(protect=[EWC()]), "no earlier skill to protect"),
        (lambda: joint(updates="sb3"), "needs updates='fast'"),
        (lambda: joint(policy_kwargs={"activation_fn": nn.ELU}), "policy of known layers"),
        (lambda: joint(popart=True, policy_kwargs={"multi_head": False}), "a head for each skill"),
        (lambda: ContinualPPO("MlpPolicy", PointVecEnv(), popart=True), "popart"),
    ],
)
def test_what_joint_training_cannot_do_is_refused(build: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_an_env_for_each_skill_is_asked_for() -> None:
    agent = JointPPO("MlpPolicy", PointVecEnv(), batch_size=20, **OPTIONS)
    agent.begin_skill("near")
    with pytest.raises(ValueError, match="joint training of 1 skills needs an env for each"):
        agent.learn(100)


def test_environments_side_by_side_are_their_parts() -> None:
    ours, parts = side_by_side(2, 3), [PointVecEnv(2, seed=0), PointVecEnv(3, -1.0, seed=1)]
    seen: Any = ours.reset()
    np.testing.assert_array_equal(seen, np.concatenate([p.reset() for p in parts]))
    state = ours.get_state()
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 5, 2))
    steps = [ours.step(action) for action in actions]
    for action, (seen, reward, done, infos) in zip(actions, steps, strict=True):
        theirs = [p.step(a) for p, a in zip(parts, (action[:2], action[2:]), strict=True)]
        np.testing.assert_array_equal(seen, np.concatenate([t[0] for t in theirs]))
        np.testing.assert_array_equal(reward, np.concatenate([t[1] for t in theirs]))
        assert done.tolist() == [d for t in theirs for d in t[2]]
        assert len(infos) == 5
    ours.set_state(state)
    np.testing.assert_array_equal(ours.step(actions[0])[0], steps[0][0])
    assert ours.get_attr("sign") == [1.0, 1.0, -1.0, -1.0, -1.0]
    assert ours.get_attr("sign", [4, 0]) == [-1.0, 1.0]
    assert ours.seed(5) == [5, 5, 7, 7, 7]
