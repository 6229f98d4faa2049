"""SAC that keeps earlier skills."""

import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from clrl.agents import sac_update
from clrl.agents.buffer import COLUMNS, TensorReplayBuffer, is_vector
from clrl.agents.continual import Continual
from clrl.agents.guard import check_statistics
from clrl.agents.heads import MultiHeadSACPolicy
from clrl.agents.pickled import require_trust
from clrl.agents.rehearsal import Rehearsal
from clrl.agents.remembering import stacked
from clrl.agents.sac_capture import CapturedSteps, can_capture
from clrl.agents.sac_update import GradientSteps
from clrl.agents.saved import load_moments
from clrl.agents.tensor_env import TensorEnv, tensor_env
from clrl.agents.tensor_steps import collect as collect_tensors

_AUTOMATIC = re.compile(r"auto(_\d+(\.\d+)?(e-?\d+)?)?")


class ContinualSAC(Continual, SAC):
    """Stable-Baselines3's SAC, with heads and protections.

    A new skill starts with an empty replay buffer, fresh optimiser moments and its own temperature;
    the critics' trunk is kept and left free. With `updates="sb3"`, without protections and with one
    skill it is SB3's SAC to the bit; the default takes the same steps faster, see `sac_update`.

    Where the environment's worlds live on a device (`TensorEnv`) the default keeps transitions
    there from the step to the update. Action noise and other replay buffers go SB3's way.
    """

    off_policy = True
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MultiHeadSACPolicy}

    def __init__(self, *args: Any, explore: str = "random", **kwargs: Any) -> None:
        """Build the agent.

        Args:
            args: As SB3's `SAC`.
            explore: Who acts while a new skill warms up (`learning_starts` steps): "random", or
                "best-head": the earlier skills' heads take turns, one a world, then the one whose
                worlds earned most acts in all (Wolczyk et al., "Disentangling Transfer in
                Continual Reinforcement Learning", NeurIPS 2022).
            kwargs: As SB3's `SAC` and `Continual`.

        Raises:
            ValueError: an unknown way to explore, or a temperature that is none.
        """
        if explore not in ("random", "best-head"):
            raise ValueError(f"explore must be 'random' or 'best-head', got {explore!r}")
        temperature = kwargs.get("ent_coef")
        if isinstance(temperature, str) and not _AUTOMATIC.fullmatch(temperature):
            raise ValueError(
                f"ent_coef must be a number, 'auto' or such as 'auto_0.1', got {temperature!r}"
            )
        self.explore = explore
        self._captured: CapturedSteps | None = None
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        plain = self.n_steps == 1 and not self.optimize_memory_usage
        if self.replay_buffer_class is None and plain and is_vector(self.observation_space):
            self.replay_buffer_class = TensorReplayBuffer
        super()._setup_model()

    def _optimizers(self) -> dict[str, tuple[torch.optim.Optimizer, str]]:
        return {
            "actor": (self.actor.optimizer, "update"),
            "critic": (self.critic.optimizer, "update_critic"),
        }

    def _watched(self) -> dict[str, torch.optim.Optimizer]:
        watched = super()._watched()
        if self.ent_coef_optimizer is not None:
            watched["temperature"] = self.ent_coef_optimizer
        return watched

    def _start_afresh(self) -> None:
        super()._start_afresh()
        assert self.replay_buffer is not None
        self.replay_buffer.reset()
        if self.log_ent_coef is not None:
            initial = str(self.ent_coef).partition("_")[2] or "1.0"
            start = torch.full((self._temperatures(),), float(np.log(float(initial))))
            self.log_ent_coef = start.to(self.device).requires_grad_()
            self.ent_coef_optimizer = torch.optim.Adam([self.log_ent_coef], lr=self.lr_schedule(1))

    def _temperatures(self) -> int:
        """How many there are: that of the skill being learned."""
        return 1

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Act as SB3 does; a new skill's warm-up may be left to earlier heads."""
        warming = self.num_timesteps < learning_starts
        if not (warming and self.explore == "best-head" and self.skill):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        observations: Any = self._last_obs
        heads = self._explorers(n_envs)
        actions = np.empty((n_envs, self.policy.action_space.shape[0]), dtype=np.float32)
        for head in np.unique(heads):
            rows = heads == head
            with self.policy.using(int(head)):
                actions[rows] = self.predict(observations[rows], deterministic=False)[0]
        return actions, self.policy.scale_action(actions)

    def _explorers(self, n_envs: int) -> NDArray[Any]:
        """The head that acts in each world."""
        turns = np.arange(n_envs) % self.skill
        buffer: Any = self.replay_buffer
        if self.num_timesteps - self._skill_start < self.learning_starts // 2 or not buffer.pos:
            return turns
        earned = np.asarray(torch.as_tensor(buffer.rewards[: buffer.pos]).cpu()).mean(axis=0)
        each = [earned[turns == head].mean() for head in np.unique(turns)]
        return np.full(n_envs, int(np.argmax(each)))

    def collect_rollouts(self, env: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Collect as SB3 does, its warm-up counted from the skill's start."""
        buffer: Any = self.replay_buffer
        kwargs["learning_starts"] = self._skill_start + self.learning_starts
        self._fresh_from = buffer.pos
        if on_device := self._tensor_env(env):
            del kwargs["action_noise"]  # there is none
            rollout = collect_tensors(self, on_device, **kwargs)
        else:
            rollout = super().collect_rollouts(env, **kwargs)
        if rollout.continue_training:
            self._see(self.fresh()["observation"].to(self.device))
            check_statistics(self)
            self._protect("collect")
        return rollout

    def _see(self, observations: Tensor) -> None:
        """Fold new observations (rows, obs) into the statistics."""
        self.policy.features.update(observations)

    def _tensor_env(self, env: Any) -> TensorEnv | None:
        """The environment to step in tensors, or None where SB3 steps it."""
        plain = type(self.replay_buffer) is TensorReplayBuffer and self.action_noise is None
        return tensor_env(env) if plain and self.updates != "sb3" else None

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Train as SB3 does, once the skill's warm-up is over."""
        if self.num_timesteps <= self._skill_start + self.learning_starts:
            return
        if self.updates != "sb3" and sac_update.supports(self):
            sac_update.train(self, self._steps(batch_size), gradient_steps, batch_size)
        else:
            super().train(gradient_steps, batch_size)
        self._stop_if_broken()

    def _steps(self, batch_size: int) -> GradientSteps:
        """What takes the gradient steps: on a GPU a graph, captured anew when it no longer fits."""
        if self.updates == "eager" or not can_capture(self.device):
            return GradientSteps(self)
        if self._captured is None or not self._captured.fits(batch_size):
            self._captured = CapturedSteps(self, batch_size)
        return self._captured

    def pull(
        self,
        observations: dict[int, Tensor],
        loss: Callable[[Tensor, Tensor], Tensor],
        max_norm: float,
    ) -> None:
        """As for every agent; without a graph through the networks."""
        rows = torch.cat(list(observations.values()))
        rehearsal = Rehearsal(self.policy, list(observations))
        rehearsal.pull_actor(rehearsal.states(rows), loss, max_norm)

    def values(self, rows: dict[str, Tensor], skill: int) -> Tensor:
        """What each critic says of each row's state and action in a skill, (batch, critics)."""
        with self.policy.using(skill):
            return torch.cat(self.critic(rows["observation"], rows["action"]), dim=1)

    def pull_values(
        self,
        rows: dict[int, dict[str, Tensor]],
        loss: Callable[[Tensor], Tensor],
        max_norm: float,
    ) -> None:
        """As of `ContinualPPO`, of the values (rows, critics); without a graph."""
        columns = stacked(rows)
        rehearsal = Rehearsal(self.policy, list(rows))
        values = rehearsal.values(rehearsal.states(columns["observation"]), columns["action"])
        (gradient,) = torch.autograd.grad(loss(values.requires_grad_()), values)
        rehearsal.pull_critics(gradient, max_norm)

    @property
    def temperature(self) -> float:
        """Weight of the entropy, as it stands."""
        if self.log_ent_coef is None:
            return float(self.ent_coef_tensor)
        return float(self.log_ent_coef.detach().exp().mean())

    def draws(self, count: int, size: int) -> Tensor:
        """Indices of some batches of stored transitions, (count, size), skill after skill.

        A batch has as many rows of each of `learned`; the replay buffer's `gather` takes them.
        """
        buffer: Any = self.replay_buffer
        drawn: Tensor = buffer.draw(count, size)
        return drawn

    @property
    def learned(self) -> list[int]:
        """Indices of the skills being learned: the newest."""
        return [self.skill]

    def fresh(self) -> dict[str, Tensor]:
        """New transitions: observation, action, reward, next_observation, done, (rows, ...)."""
        buffer: Any = self.replay_buffer
        end = buffer.pos if buffer.pos > self._fresh_from else buffer.pos + buffer.buffer_size
        rows: Any = np.arange(self._fresh_from, end) % buffer.buffer_size
        if isinstance(buffer, TensorReplayBuffer):  # an index from the host would wait
            rows = torch.arange(self._fresh_from, end, device=buffer.device) % buffer.buffer_size
        done = buffer.dones[rows] * (1.0 - buffer.timeouts[rows])
        columns = {
            "observation": buffer.observations[rows],
            "action": buffer.actions[rows],
            "reward": buffer.rewards[rows][..., None],
            "next_observation": buffer.next_observations[rows],
            "done": done[..., None],
        }
        return {k: torch.as_tensor(v).flatten(0, 1).float() for k, v in columns.items()}

    def _experience(self) -> Any:
        buffer: Any = self.replay_buffer
        rows = buffer.buffer_size if buffer.full else buffer.pos
        return buffer.observations[:rows].reshape(-1, buffer.observations.shape[-1])

    def train_state(self, experience: bool = True) -> dict[str, Any]:
        """As for every agent, with the temperature and, as experience, the replay buffer."""
        buffer: Any = self.replay_buffer
        rows = buffer.buffer_size if buffer.full else buffer.pos
        state = super().train_state()
        if experience:
            state["buffer"] = {name: getattr(buffer, name)[:rows] for name in COLUMNS}
            state["buffer_at"] = [buffer.pos, buffer.full]
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            state["log_ent_coef"] = self.log_ent_coef.detach().clone()
            state["ent_coef_optimizer"] = self.ent_coef_optimizer.state_dict()
        return state

    def load_train_state(self, state: dict[str, Any]) -> None:
        """As for every agent, with the temperature and the replay buffer, if it was saved."""
        super().load_train_state(state)
        if "buffer" in state:
            self._load_experience(state)
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            with torch.no_grad():
                self.log_ent_coef.copy_(state["log_ent_coef"])
            load_moments(self.ent_coef_optimizer, state["ent_coef_optimizer"])

    def load_replay_buffer(self, path: Any, *args: Any, trust_pickle: bool = False) -> None:
        """SB3's, which runs whatever the file tells it to; see `load`."""
        require_trust(path, trust_pickle)
        super().load_replay_buffer(path, *args)

    def _load_experience(self, state: dict[str, Any]) -> None:
        buffer: Any = self.replay_buffer
        position, full = state["buffer_at"]
        rows = buffer.buffer_size if full else position
        if not 0 <= position < buffer.buffer_size:
            raise ValueError(f"position {position!r} of {buffer.buffer_size} in the replay buffer")
        for name in COLUMNS:
            column, into = torch.as_tensor(state["buffer"][name]), getattr(buffer, name)
            if column.shape != (rows, *into.shape[1:]):
                raise ValueError(f"{name} of the replay buffer have another shape")
            torch.as_tensor(into)[:rows] = column  # shares an array's memory
        buffer.pos, buffer.full = int(position), bool(full)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_fresh_from", "_captured"]
