"""Joint SAC: each skill's part is SAC's own, an update their mean."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from torch.nn import functional

from clrl.agents import EWC, ContinualSAC, JointSAC, sac_update
from tests.agents.conftest import SAC_OPTIONS, begun, reaches, same, side_by_side
from tests.agents.toy import PointVecEnv

NETS = {"net_arch": [16, 16], "normalize": True}


def joint(worlds: tuple[int, ...] = (2, 3), **options: Any) -> Any:
    """A joint agent on the toy task under one sign after another, its skills begun."""
    policy = NETS | options.pop("policy_kwargs", {})
    settings = SAC_OPTIONS | {"seed": 0, "policy_kwargs": policy} | options
    return begun(JointSAC("MlpPolicy", side_by_side(*worlds), **settings), len(worlds))


def test_one_skill_alone_is_sac_to_the_bit() -> None:
    alone = ContinualSAC("MlpPolicy", PointVecEnv(4), seed=0, policy_kwargs=NETS, **SAC_OPTIONS)
    alone.begin_skill("skill 0", steps=1000)
    assert same(alone.learn(400), joint((4,)).learn(400))


def test_an_update_takes_the_mean_of_the_skills_own_gradients_as_sb3_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = joint()
    agent.learn(300)
    with torch.no_grad():
        agent.log_ent_coef.copy_(torch.tensor([0.3, -1.2]))
    rows = agent.draws(1, 16)[0]
    batch = agent.replay_buffer.gather(rows)
    noise = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    expected = sb3_gradients(agent, batch, noise)
    monkeypatch.setattr(sac_update, "_noise", lambda _: noise)
    for optimizer in (agent.actor.optimizer, agent.critic.optimizer, agent.ent_coef_optimizer):
        monkeypatch.setattr(optimizer, "step", lambda: None)
    sac_update.GradientSteps(agent).step(rows, polyak=False)
    parameters = [*agent.actor.parameters(), *agent.critic.parameters()]
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    assert agent.log_ent_coef.grad.shape == (2,)
    assert agent.log_ent_coef.grad[0] != agent.log_ent_coef.grad[1]


def sb3_gradients(agent: Any, batch: Any, noise: torch.Tensor) -> list[torch.Tensor]:
    """Of actor and critics, by the losses of `stable_baselines3.SAC.train`, skill by skill."""
    actor_loss, critic_loss = torch.zeros(()), torch.zeros(())
    for skill in range(2):
        rows = slice(8 * skill, 8 * skill + 8)
        part = type(batch)(*(column[rows] for column in batch[:5]))
        alpha = agent.log_ent_coef[skill].detach().exp()
        with agent.policy.using(skill):
            action, log_prob = drawn(agent, part.observations, noise[rows])
            with torch.no_grad():
                following, following_log = drawn(agent, part.next_observations, noise[16:][rows])
                value = torch.cat(
                    agent.critic_target(part.next_observations, following), dim=1
                ).amin(dim=1, keepdim=True)
                value = value - alpha * following_log
                goal = part.rewards + (1 - part.dones) * agent.gamma * value
            for current in agent.critic(part.observations, part.actions):
                critic_loss = critic_loss + 0.5 * functional.mse_loss(current, goal) / 2
            least = torch.cat(agent.critic(part.observations, action), dim=1).amin(dim=1)
            actor_loss = actor_loss + (alpha * log_prob[:, 0] - least).mean() / 2
    actor = torch.autograd.grad(actor_loss, list(agent.actor.parameters()))
    return [*actor, *torch.autograd.grad(critic_loss, list(agent.critic.parameters()))]


def drawn(agent: Any, seen: Any, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_std, _ = agent.actor.get_action_dist_params(seen)
    before = mean + log_std.exp() * noise
    action = torch.tanh(before)
    density = torch.distributions.Normal(mean, log_std.exp()).log_prob(before).sum(dim=1)
    return action, (density - torch.log(1 - action**2 + 1e-6).sum(dim=1))[:, None]


def test_every_skill_keeps_its_own_statistics_transitions_and_temperature() -> None:
    agent = joint((2, 3))
    agent.learn(150)
    count = agent.replay_buffer.size()
    assert agent.num_timesteps == 5 * count
    assert agent.policy.features.count[:3].tolist() == [2.0 * count, 3.0 * count, 0.0]
    stored = agent.replay_buffer.observations[:count]
    for skill, worlds in enumerate((slice(0, 2), slice(2, 5))):
        own = stored[:, worlds].reshape(-1, 3)
        torch.testing.assert_close(
            agent.policy.features.mean[skill], own.mean(dim=0), rtol=1e-4, atol=1e-5
        )
    assert agent.log_ent_coef.shape == (2,)
    agent.replay_buffer.rewards[:] = torch.arange(5.0)
    for rows in agent.draws(20, 40):
        worlds = agent.replay_buffer.gather(rows).rewards[:, 0]
        assert set(worlds[:20].tolist()) == {0.0, 1.0}
        assert set(worlds[20:].tolist()) == {2.0, 3.0, 4.0}
    assert len(agent.visited(10_000)) == 3 * count  # of the newest skill


def test_a_skill_acts_by_its_own_head() -> None:
    agent = joint((2, 3), learning_starts=0)
    agent.set_logger(configure(None, []))
    with torch.no_grad():
        for sign, mean, log_std in zip(
            (-1, 1), agent.actor.mu.layers, agent.actor.log_std.layers, strict=True
        ):
            mean.weight.zero_()
            mean.bias.fill_(3.0 * sign)
            log_std.weight.zero_()
            log_std.bias.fill_(-10.0)
    agent._last_obs = agent.env.reset()
    actions = agent._sample_action(0, n_envs=5)[1]
    np.testing.assert_array_equal(np.sign(actions[:, 0]), [-1, -1, 1, 1, 1])


def test_two_skills_are_learned_at_once() -> None:
    options = {"learning_rate": 3e-3, "gamma": 0.9, "buffer_size": 10_000, "batch_size": 64}
    agent = joint((4, 4), **options)
    agent.learn(6000)
    assert reaches(agent)


def test_joint_training_continues_bit_for_bit_from_its_state() -> None:
    agent = joint()
    agent.learn(200)
    env: Any = agent.env
    state, at = agent.train_state(), env.get_state()
    state = torch.utils._pytree.tree_map(
        lambda v: v.clone() if isinstance(v, torch.Tensor) else v, state
    )
    agent.learn(200, reset_num_timesteps=False)
    other_env = side_by_side(2, 3)
    other_env.reset()
    other = JointSAC("MlpPolicy", other_env, seed=0, policy_kwargs=NETS, **SAC_OPTIONS)
    other.load_train_state(state)
    other.set_env(other_env, force_reset=False)
    other_env.set_state(at)
    other.learn(200, reset_num_timesteps=False)
    assert same(agent, other)
    assert agent.temperature == other.temperature


def test_it_saves_and_loads_as_sb3_does(tmp_path: Any) -> None:
    agent = joint().learn(200)
    agent.save(tmp_path / "agent")
    loaded = JointSAC.load(tmp_path / "agent", env=side_by_side(2, 3), trust_pickle=True)
    assert same(agent, loaded)
    assert torch.equal(agent.log_ent_coef, loaded.log_ent_coef)
    loaded.learn(100, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protect": [EWC()]}, "no earlier skill to protect"),
        ({"updates": "sb3"}, "needs updates='fast'"),
        ({"policy_kwargs": {"activation_fn": torch.nn.ELU}}, "policy of known layers"),
        (
            {
                "optimize_memory_usage": True,
                "replay_buffer_kwargs": {"handle_timeout_termination": False},
            },
            "policy of known layers",
        ),
        ({"explore": "best-head"}, "explores at random"),
        ({"action_noise": NormalActionNoise(np.zeros(2), np.ones(2))}, "explores at random"),
    ],
)
def test_what_joint_training_cannot_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joint(**options)


def test_heads_that_no_skill_has_are_refused() -> None:
    agent = joint(policy_kwargs={"n_heads": 3})
    with pytest.raises(ValueError, match="a head for each skill; leave n_heads out"):
        agent.learn(100)


def test_an_env_for_each_skill_is_asked_for() -> None:
    agent = JointSAC("MlpPolicy", PointVecEnv(), **SAC_OPTIONS)
    agent.begin_skill("near")
    with pytest.raises(ValueError, match="joint training of 1 skills needs an env for each"):
        agent.learn(100)
