"""No step makes the host wait for a device: tensors of device "meta" have no number to read."""

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clrl.agents import ContinualPPO, ContinualSAC, guard, tensor_rollout, tensor_steps
from clrl.agents.actor_critic import ActorCritic
from clrl.agents.rows import Rows
from clrl.agents.sac_update import GradientSteps
from tests.agents.toy import PointVecEnv

META = torch.device("meta")
N, HORIZON = 4, 5


class MetaVecEnv(PointVecEnv):
    """Gives tensors without numbers; all worlds end together, which the host knows."""

    device = "meta"

    def step_tensor(self, action: Tensor) -> tuple[Any, Tensor]:
        assert action.device == META
        assert action.shape == (N, 2)
        self.clock += 1
        seen = torch.zeros(N, 3, device=META)
        over = self.clock % HORIZON == 0
        self.ended = SimpleNamespace(worlds=torch.arange(N), clock=self.clock)
        step = SimpleNamespace(
            observation=seen, reward=seen[:, 0].double(), done=torch.full((N,), over)
        )
        return step, seen

    def step(self, actions: Any) -> Any:
        raise AssertionError("stepped in arrays")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is read from the device; everything else that reads raises."""
    reads: list[Any] = []

    def episodes(agent: Any, ended: list[Any]) -> None:
        reads.append([e.clock for e in ended])

    def findings(self: guard.Unread) -> None:
        reads.append(sorted(self._found))

    for module in (tensor_rollout, tensor_steps):
        monkeypatch.setattr(module, "record_episodes", episodes)
    monkeypatch.setattr(guard.Unread, "read", findings)
    monkeypatch.setattr(guard, "_finite", lambda tensors: True)
    return reads


OPTIONS: dict[Any, dict[str, Any]] = {
    ContinualPPO: {"n_steps": 12, "batch_size": 12},
    ContinualSAC: {"learning_starts": 12, "train_freq": 12, "buffer_size": 200},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_rollout_reads_from_the_device_when_it_ends(kind: Any, read: list[Any]) -> None:
    agent = kind(
        "MlpPolicy",
        MetaVecEnv(N),
        policy_kwargs={"net_arch": [8], "normalize": True},
        device="meta",
        **OPTIONS[kind],
    )
    updates: list[int] = []
    agent.train = lambda *_, **__: updates.append(agent.num_timesteps)
    agent.learn(24 * N)
    seen = ["action", "observation", "reward"]
    assert read == [[5, 10], seen, [15, 20], seen]
    assert updates == [12 * N, 24 * N]
    assert agent.fresh()["observation"].shape == (12 * N, 3)
    assert all(column.device == META for column in agent.fresh().values())
    assert isinstance(agent._last_episode_starts, np.ndarray)


def test_a_minibatch_of_ppo_reads_nothing(read: list[Any]) -> None:
    agent: Any = ContinualPPO("MlpPolicy", MetaVecEnv(N), n_steps=12, batch_size=12, device="meta")
    agent.train = lambda: None
    agent.learn(12 * N)
    networks = ActorCritic.of(agent.policy)
    assert networks is not None
    rows = Rows.of(agent.rollout_buffer, networks.features)
    batches = [networks.differentiate(agent._surrogate(), b) for b in rows.shuffled(12)]
    assert len(batches) == N
    assert all(trace.error.device == META for traces in batches for trace in traces)


def test_a_gradient_step_of_sac_reads_nothing(
    read: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent: Any = ContinualSAC(
        "MlpPolicy", MetaVecEnv(N), learning_starts=100, train_freq=12, device="meta"
    )
    agent.learn(12 * N)
    agent.policy.fresh_optimizers()  # moving to "meta" made other parameters
    agent._register_hooks()
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "adam", lambda *_, **__: None)  # there is none for "meta"
    steps = GradientSteps(agent)
    for indices in agent.replay_buffer.draw(3, 16):
        steps.step(indices, polyak=True)
    assert list(steps._logged) == ["ent_coef", "ent_coef_loss", "critic_loss", "actor_loss"]
    assert steps._sums is not None
    assert steps._sums.device == META
    agent.logger.name_to_value.clear()
    agent._stop_if_broken()
    agent.unread.read()
    assert read[-1] == [
        "gradient of the actor loss",
        "gradient of the critic loss",
        "gradient of the temperature loss",
        "statistic of the observations",
        "weight of the actor",
        "weight of the critic",
        "weight of the temperature",
    ]
