"""Agents are SB3's own where nothing continual is asked, and keep skills apart where it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy

from clrl.agents import (
    EWC,
    ContinualPPO,
    ContinualSAC,
    NumericalError,
    PolicyDistillation,
    Protection,
    ReservoirReplay,
)
from tests.agents.conftest import NETS, PPO_OPTIONS, SAC_OPTIONS, make_agent
from tests.agents.toy import PointVecEnv

AGENTS: dict[str, Any] = {"ppo": ContinualPPO, "sac": ContinualSAC}


def all_three(strength: float = 1.0) -> list[Protection]:
    return [
        EWC(strength, samples=16),
        PolicyDistillation(strength, states=16, batch_size=8),
        ReservoirReplay(strength, capacity=50, batch_size=8),
    ]


def weights(agent: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in agent.policy.parameters()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def two_skills(agent: Any, steps: int = 80) -> Any:
    for name, sign in (("near", 1.0), ("mirror", -1.0)):
        agent.begin_skill(name, PointVecEnv(sign=sign), steps)
        agent.learn(steps, reset_num_timesteps=False)
        agent.end_skill()
    return agent


def test_one_skill_is_sb3_to_the_bit(kind: str) -> None:
    if kind == "ppo":
        peer: Any = PPO("MlpPolicy", PointVecEnv(), policy_kwargs=dict(NETS), seed=0, **PPO_OPTIONS)
    else:
        peer = SAC("MlpPolicy", PointVecEnv(), policy_kwargs=dict(NETS), seed=0, **SAC_OPTIONS)
    peer.learn(160)
    ours = make_agent(kind, updates="sb3")
    ours.learn(160)
    assert equal(weights(ours), weights(peer))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_strength_0_is_unprotected_to_the_bit(kind: str, index: int) -> None:
    plain = two_skills(make_agent(kind))
    zero = two_skills(make_agent(kind, [all_three(0.0)[index]]))
    assert equal(weights(plain), weights(zero))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_protection_changes_the_second_skill_only(kind: str, index: int) -> None:
    first, second = [], []
    for protect in ([], [all_three()[index]]):
        agent = make_agent(kind, protect)
        agent.begin_skill("near", None, 80)
        agent.learn(80)
        agent.end_skill()
        first.append(weights(agent))
        agent.begin_skill("mirror", PointVecEnv(sign=-1.0), 80)
        agent.learn(80, reset_num_timesteps=False)
        second.append(weights(agent))
    assert equal(*first)
    assert not equal(*second)


def test_heads_of_other_skills_stay_put_without_protections(kind: str) -> None:
    agent = make_agent(kind)
    agent.begin_skill("near")
    agent.learn(80)
    agent.end_skill()
    head = agent.policy.action_net if kind == "ppo" else agent.actor.mu
    before = head.layers[0].weight.detach().clone()
    agent.begin_skill("mirror", PointVecEnv(sign=-1.0))
    agent.learn(80, reset_num_timesteps=False)
    assert torch.equal(head.layers[0].weight, before)
    assert len(head.layers) == 2


def test_a_new_skill_starts_with_fresh_experience_and_moments(kind: str) -> None:
    agent = make_agent(kind)
    agent.begin_skill("near")
    agent.learn(80)
    agent.begin_skill("mirror", PointVecEnv(sign=-1.0))
    optimizer = agent.policy.optimizer if kind == "ppo" else agent.actor.optimizer
    assert not optimizer.state
    if kind == "sac":
        assert agent.replay_buffer.size() == 0
        assert agent.log_ent_coef.item() == 0.0
        critic = weights(agent)
        agent.learn(20, reset_num_timesteps=False)
        assert equal(weights(agent), critic)  # its warm-up counts from the skill's start


def test_statistics_of_earlier_skills_do_not_move(kind: str) -> None:
    agent = make_agent(kind, normalize=True)
    agent.begin_skill("near")
    agent.learn(80)
    features = agent.policy.features
    before = features.mean[0].clone()
    assert before.abs().sum() > 0
    agent.begin_skill("mirror", PointVecEnv(sign=-1.0))
    agent.learn(80, reset_num_timesteps=False)
    assert torch.equal(features.mean[0], before)
    assert features.mean[1].abs().sum() > 0


def test_normalised_statistics_are_those_of_the_data() -> None:
    features = make_agent("ppo", normalize=True).policy.features
    data = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    for part in data.split(30):
        features.update(part)
    torch.testing.assert_close(features.mean[0], data.mean(dim=0))
    torch.testing.assert_close(features.var[0], data.var(dim=0, unbiased=False))


def test_a_single_head_is_told_the_skill(kind: str) -> None:
    agent = two_skills(make_agent(kind, multi_head=False))
    observation = np.zeros((1, 3), np.float32)
    near, mirror = (agent.act(observation, skill=s) for s in ("near", "mirror"))
    assert not np.array_equal(near, mirror)


def test_act_takes_one_observation_or_many_and_restores_the_head(kind: str) -> None:
    agent = two_skills(make_agent(kind))
    assert agent.act(np.zeros(3, np.float32), skill="near").shape == (2,)
    assert agent.act(np.zeros((5, 3), np.float32), skill="near").shape == (5, 2)
    assert agent.policy.features.active == 1
    with pytest.raises(ValueError, match="no skill 'fly'; it has near, mirror"):
        agent.act(np.zeros(3, np.float32), skill="fly")
    for wrong, said in (
        (np.full(3, np.nan), "a number that is not finite"),
        ({"joints": np.zeros(3)}, "an array of numbers, got dict"),
        (None, "an array of numbers, got NoneType"),
        (np.zeros(4), "observation shape"),
    ):
        with pytest.raises(ValueError, match=said):
            agent.act(wrong, skill="near")
    with pytest.raises(ValueError, match="learned skill 'near' already"):
        agent.begin_skill("near")


def test_what_sb3_users_do_works(kind: str, tmp_path: Path) -> None:
    agent = make_agent(kind, all_three())
    seen = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        seen.append(local)
        return True

    agent.learn(60, progress_bar=True, callback=watch)
    assert seen
    mean, _ = evaluate_policy(agent, PointVecEnv(), n_eval_episodes=4)
    assert np.isfinite(mean)
    two_skills(agent)
    agent.save(tmp_path / "agent")
    loaded: Any = AGENTS[kind].load(tmp_path / "agent", trust_pickle=True)
    assert equal(weights(loaded), weights(agent))
    observation = np.ones((3, 3), np.float32)
    for skill in agent.skills:
        assert np.array_equal(loaded.act(observation, skill), agent.act(observation, skill))
    loaded.set_env(PointVecEnv())
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.protections[0].importance


def test_training_continues_bit_for_bit_from_its_state(kind: str) -> None:
    env = PointVecEnv(sign=-1.0)
    agent = make_agent(kind, all_three(), normalize=True)
    agent.begin_skill("near", PointVecEnv(), 80)
    agent.learn(80)
    agent.end_skill()
    agent.begin_skill("mirror", env, 160)
    agent.learn(80, reset_num_timesteps=False)
    state, env_state = agent.train_state(), env.get_state()
    state = {k: v for k, v in torch.utils._pytree.tree_map(_copy, state).items()}
    agent.learn(80, reset_num_timesteps=False)
    agent.end_skill()

    other_env = PointVecEnv(sign=-1.0, seed=9)
    other_env.reset()
    other = make_agent(kind, all_three(), normalize=True)
    other.load_train_state(state)
    other.set_env(other_env, force_reset=False)
    other_env.set_state(env_state)
    other.learn(80, reset_num_timesteps=False)
    other.end_skill()
    assert equal(weights(agent), weights(other))
    assert torch.equal(agent.protections[0].importance[0], other.protections[0].importance[0])


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_a_schedule_runs_over_each_skill() -> None:
    agent = ContinualPPO(
        "MlpPolicy", PointVecEnv(), learning_rate=lambda left: left, seed=0, **PPO_OPTIONS
    )
    rates = []
    for name in ("a", "b"):
        agent.begin_skill(name, PointVecEnv(), 80)
        agent.learn(80, reset_num_timesteps=False)
        rates.append(agent.policy.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]


class Recorder(Protection):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def before_skill(self, learner: Any) -> None:
        self.calls.append("before")

    def collect(self, learner: Any) -> None:
        self.calls.append("collect")

    def update(self, learner: Any) -> None:
        self.calls.append("update")

    def after_skill(self, learner: Any) -> None:
        self.calls.append("after")


def test_hooks_come_in_order() -> None:
    recorder = Recorder()
    two_skills(make_agent("ppo", [recorder]), steps=40)
    once = [c for i, c in enumerate(recorder.calls) if i == 0 or recorder.calls[i - 1] != c]
    assert once == ["before", "collect", "update", "after"] * 2
    assert recorder.calls.count("update") == 2 * 4 * 2  # skills, minibatches, epochs


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_bad_observation_stops_training_at_once(kind: str, poison: float) -> None:
    env = PointVecEnv()
    agent = make_agent(kind, env=env)
    agent.begin_skill("near")
    agent.learn(40)
    before, env.poison = weights(agent), poison
    with pytest.raises(NumericalError, match=r"skill 'near': observation is not finite at step"):
        agent.learn(40, reset_num_timesteps=False)
    assert equal(weights(agent), before)


def test_a_bad_loss_stops_training_before_the_update(kind: str) -> None:
    class Poison(Protection):
        def update(self, learner: Any) -> None:
            next(iter(learner.policy.parameters())).grad.fill_(float("nan"))

    agent = make_agent(kind, [Poison()])
    agent.begin_skill("near")
    before = weights(agent)
    with pytest.raises(NumericalError, match=r"skill 'near': gradient of the .* is not finite"):
        agent.learn(80)
    assert not any(torch.isnan(w).any() for w in weights(agent))
    assert kind == "sac" or equal(weights(agent), before)


def test_a_bad_weight_stops_training(kind: str) -> None:
    agent = make_agent(kind)
    agent.begin_skill("near")
    with torch.no_grad():
        next(iter(agent.policy.parameters())).fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"skill 'near': weight .* is not finite"):
        agent.learn(80)
