"""A memory tells what nobody can know who sees the present alone: earlier steps, earlier skills."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecFrameStack

from clrl.agents import EWC, ContinualPPO, PolicyDistillation, ReservoirReplay
from clrl.agents.memory import Memory, Reader
from tests.agents.conftest import make_agent, resumed_twins, trained_on
from tests.agents.recall_tasks import CUES, BookVecEnv, CueVecEnv
from tests.agents.toy import HORIZON

GUESS = -0.5  # reward of the best guess without a memory


def ppo(env: Any, net_arch: list[int], memory: dict[str, int] | None = None) -> Any:
    policy: dict[str, Any] = {"net_arch": net_arch, "log_std_init": -1.0}
    if memory is not None:
        policy["memory"] = memory
    return ContinualPPO(
        "MlpPolicy",
        env,
        n_steps=20,
        batch_size=160,
        n_epochs=5,
        learning_rate=3e-3,
        gamma=0.0,
        seed=0,
        device="cpu",
        policy_kwargs=policy,
    )


def learn(agent: Any, name: str, env: Any, steps: int) -> None:
    agent.begin_skill(name, env, steps)
    agent.learn(steps, reset_num_timesteps=False)
    agent.end_skill()


def earned(agent: Any, env: Any, skill: str) -> float:
    """Mean reward of a step, the first of each episode left out."""
    observation, rewards = env.reset(), []
    for step in range(4 * HORIZON):
        observation, reward, _, _ = env.step(agent.act(observation, skill))
        if step % HORIZON:
            rewards.append(reward.mean())
    return float(np.mean(rewards))


def parameters(agent: Any) -> int:
    return sum(p.numel() for p in agent.policy.parameters())


def test_what_was_shown_earlier_in_the_episode_is_recalled() -> None:
    def stacked(seed: int) -> VecFrameStack:
        return VecFrameStack(CueVecEnv(seed=seed), 1 + HORIZON)

    agent = ppo(stacked(0), [32], {"rows": HORIZON, "width": 16})
    plain = ppo(CueVecEnv(), [192])
    assert parameters(plain) > parameters(agent)
    learn(agent, "cue", stacked(0), 3840)
    learn(plain, "cue", CueVecEnv(), 3840)
    assert earned(agent, stacked(5), "cue") > -0.15
    assert earned(plain, CueVecEnv(seed=5), "cue") < GUESS + 0.1


def test_what_an_earlier_skill_wrote_is_read_in_a_later_one() -> None:
    """The later skill asks for cues it was never trained on; only the memory knows them."""
    trained, asked = range(CUES * 3 // 4), range(CUES * 3 // 4, CUES)
    scores = []
    agent = ppo(BookVecEnv(range(CUES), True), [32], {"rows": 0, "examples": 640})
    plain = ppo(BookVecEnv(range(CUES), True), [72, 72])
    assert parameters(plain) > parameters(agent)
    for one in (agent, plain):
        learn(one, "open", BookVecEnv(range(CUES), True), 3200)
        learn(one, "closed", BookVecEnv(trained, False, seed=1), 6400)
        scores.append(earned(one, BookVecEnv(asked, False, seed=5), "closed"))
    assert scores[0] > -0.3
    assert scores[1] < GUESS + 0.1
    agent.policy.features.written.zero_()
    assert earned(agent, BookVecEnv(asked, False, seed=5), "closed") < GUESS + 0.1


def test_a_sharp_reader_gives_the_value_of_the_row_that_looks_like_now() -> None:
    torch.manual_seed(0)
    reader = Reader(size=6, rows=3, width=32)
    now, rows, earlier = torch.randn(2, 6), torch.randn(2, 3, 6), torch.randn(4, 6)
    rows[0, 1], earlier[2] = now[0], now[1]
    with torch.no_grad():
        reader.log_sharpness.fill_(9.0)
        read = reader(now, rows, earlier)
        torch.testing.assert_close(read, reader.value(now))
        reader.log_sharpness.fill_(-30.0)  # all scores 0: the mean, nothing's 0 included
        mean = reader.value(torch.cat((rows, earlier.expand(2, 4, 6)), dim=1)).sum(dim=1) / 8
        torch.testing.assert_close(reader(now, rows, earlier), mean)


def test_empty_rows_are_not_read() -> None:
    torch.manual_seed(0)
    reader, fewer = (Reader(size=6, rows=n, width=8) for n in (3, 1))
    fewer.load_state_dict(
        {k: v for k, v in reader.state_dict().items() if k != "place"} | {"place": fewer.place}
    )
    now, row, earlier = torch.randn(2, 6), torch.randn(2, 1, 6), torch.randn(4, 6)
    rows = torch.cat((torch.zeros(2, 2, 6), row), dim=1)
    more = torch.cat((earlier, torch.zeros(5, 6)))
    with torch.no_grad():
        torch.testing.assert_close(reader(now, rows, more), fewer(now, row, earlier))
        nothing = reader(now, torch.zeros(2, 3, 6), torch.zeros(5, 6))
    assert (nothing == 0.0).all()


SEEN = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def test_earlier_skills_are_read_and_never_overwritten() -> None:
    agent = make_agent("ppo", memory={"rows": 0}, normalize=True)
    features = agent.policy.features
    trained_on(agent, "near")
    wrote, reader = features.written[0].clone(), agent.policy.body[0].layers[0]
    before = [p.clone() for p in reader.parameters()]
    assert (wrote.abs().sum(dim=1) > 0).sum() == 40  # the last rollout
    trained_on(agent, "mirror", -1.0)
    assert torch.equal(features.written[0], wrote)
    assert all(map(torch.equal, reader.parameters(), before))
    with torch.no_grad():
        first, second = (agent.gaussian(SEEN, skill)[0].clone() for skill in (0, 1))
        features.written[0] *= -1.0
        features.written[1] *= -1.0  # its own, which it does not read
        assert torch.equal(agent.gaussian(SEEN, 0)[0], first)
        assert not torch.equal(agent.gaussian(SEEN, 1)[0], second)
        features.written[0] *= -1.0
        assert torch.equal(agent.gaussian(SEEN, 1)[0], second)


def test_rows_are_normalised_as_the_present_is() -> None:
    env = VecFrameStack(CueVecEnv(2), 3)
    agent = make_agent("ppo", env=env, memory={"rows": 2}, normalize=True)
    agent.begin_skill("cue")
    features = agent.policy.features
    data = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) + 2.0
    features.update(data)
    torch.testing.assert_close(features.mean[0], data[:, 8:].mean(dim=0))
    rows = features(torch.cat((torch.zeros(1, 4), data[:1, :4], data[:1, :4]), dim=1)).view(3, 4)
    assert (rows[0] == 0.0).all()
    assert torch.equal(rows[1], rows[2])
    assert not torch.equal(rows[1], data[0, :4])


def test_it_composes_with_protections_and_resumes_bit_for_bit() -> None:
    def make() -> Any:
        protect = [
            EWC(samples=16),
            PolicyDistillation(states=16, batch_size=8, every=1),
            ReservoirReplay(capacity=50, batch_size=8, every=1),
        ]
        return make_agent("ppo", protect, memory={"rows": 0}, normalize=True)

    agent, other = resumed_twins(make)
    states = [one.policy.state_dict() for one in (agent, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not agent.policy.body[0].layers[0].query.weight.requires_grad
    assert all(not isinstance(layer, Memory) for layer in agent.trunk())


def test_sb3_saves_and_loads_it(tmp_path: Path) -> None:
    agent = make_agent("ppo", memory={"rows": 0, "width": 8})
    trained_on(agent, "near")
    trained_on(agent, "mirror", -1.0)
    agent.save(tmp_path / "agent")
    loaded = ContinualPPO.load(tmp_path / "agent", trust_pickle=True)
    for skill in agent.skills:
        assert np.array_equal(loaded.act(SEEN.numpy(), skill), agent.act(SEEN.numpy(), skill))


def test_what_it_excludes_is_said() -> None:
    with pytest.raises(ValueError, match="SAC has no external memory; use PPO"):
        make_agent("sac", memory={"rows": 0})
    with pytest.raises(ValueError, match="memory needs a head per skill"):
        make_agent("ppo", memory={"rows": 0}, multi_head=False)
    with pytest.raises(ValueError, match="observations of 3 numbers do not hold 4 earlier ones"):
        make_agent("ppo", memory={"rows": 4})
    with pytest.raises(ValueError, match="width must be a multiple of 4"):
        make_agent("ppo", memory={"rows": 0, "width": 6})
