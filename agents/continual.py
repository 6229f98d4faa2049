"""What PPO and SAC gain to learn skill after skill.

SB3 computes its losses inside `train()` and offers no hook there. Protections work on gradients
instead, in a hook just before the optimizer steps, which leaves `train()` as SB3 wrote it.
"""

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from torch import Tensor, nn

from clrl.agents import saved
from clrl.agents.guard import (
    Guard,
    NumericalError,
    Unread,
    check_gradients,
    check_losses,
    check_memories,
    check_weights,
    message,
    parameters,
)
from clrl.agents.linear import speed_up
from clrl.agents.pickled import require_trust
from clrl.agents.plasticity import figures
from clrl.agents.protection import Protection, add_gradient, asked_of_policy, in_order
from clrl.agents.skill_policy import SkillPolicy

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm as _Base
else:
    _Base = object

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)

UPDATES = ("fast", "eager", "sb3")
_STATES = 2048  # most that figures of plasticity are measured in

# Counters and buffers that decide how training goes on.
_PLAIN = (
    "num_timesteps",
    "_n_updates",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_episode_num",
    "_current_progress_remaining",
    "skills",
    "_skill_start",
    "_skill_steps",
    "protection_seconds",
)


class Continual(_Base):
    """Skills, heads and protections; mixed into SB3's algorithms.

    `updates="sb3"` computes every product as SB3 does, and is SB3 to the bit where nothing
    continual is asked; "fast" is the same mathematics, summed in another order, and on a GPU what
    can be is captured as a CUDA graph; "eager" is "fast" without graphs.

    Attributes:
        skills: Names of the skills begun so far, in order.
        skill_importance: Of each of them, for the protections of later ones; 1 unless set.
        protections: What guards the earlier ones.
        protection_seconds: Time spent in protections.
        updates: "fast", "eager", or "sb3" for SB3's own code.
        unread: What checks found on a device during `train()`, which reads it when it ends.
        off_policy: Whether it can learn from what another policy did.
    """

    policy: Any
    off_policy: bool

    def __init__(
        self,
        *args: Any,
        protect: Sequence[Protection] = (),
        updates: str = "fast",
        **kwargs: Any,
    ) -> None:
        if updates not in UPDATES:
            raise ValueError(f"updates must be one of {', '.join(UPDATES)}, got {updates!r}")
        self.updates = updates
        self.protections = in_order(protect)
        self.skills: list[str] = []
        self.skill_importance: list[float] = []
        self.unread = Unread()
        self.protection_seconds = 0.0
        self._skill_start = 0
        self._skill_steps: int | None = None
        if asked := asked_of_policy(self.protections):
            kwargs["policy_kwargs"] = (kwargs.get("policy_kwargs") or {}) | asked
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()  # type: ignore[safe-super]
        if self.updates != "sb3":
            speed_up(self.policy)
        self._generator = torch.Generator().manual_seed(self.seed or 0)
        self.policy.select(max(0, len(self.skills) - 1))
        self._register_hooks()
        self._protect("attach")

    # Skills

    def begin_skill(
        self, name: str, env: Any = None, steps: int | None = None, like: str | None = None
    ) -> None:
        """Start learning a skill: a new head, fresh moments, fresh experience.

        The first skill takes the head the agent was built with.

        Args:
            name: Of the skill, new to this agent.
            env: Its environment; the present one stays if none is given.
            steps: Its budget, over which learning-rate schedules run from 1 to 0.
            like: An earlier skill, from whose head and observation statistics it starts.

        Raises:
            ValueError: the agent has that skill already or not the one it is like, or the
                environment's spaces differ.
        """
        if name in self.skills:
            raise ValueError(f"the agent has learned skill {name!r} already")
        if env is not None:
            self.set_env(env)
        if self.skills:
            self.policy.add_head(None if like is None else self.skill_index(like))
            self.policy_kwargs = self.policy_kwargs | {"n_heads": self.policy.n_heads}
            self._start_afresh()
        self.skills.append(name)
        self.skill_importance.append(1.0)
        self.policy.select(self.skill)
        self._skill_start, self._skill_steps = self.num_timesteps, steps
        self._protect("before_skill")

    def end_skill(self) -> None:
        """Let the protections remember the skill, after its last update.

        Raises:
            NumericalError: one of them remembers a number that is not finite.
        """
        self._protect("after_skill")
        self.policy.remember(self.visited)
        check_memories(self)
        for protection in self.protections:
            if names := protection.unsaved():
                _LOG.warning(
                    "clrl: %s keeps %s, which no state_dict of its saves: a resumed or adapted run "
                    "goes on without",
                    type(protection).__name__,
                    ", ".join(names),
                )

    @property
    def skill(self) -> int:
        """Index of the skill being learned, the latest."""
        return max(0, len(self.skills) - 1)

    @property
    def skill_progress(self) -> float | None:
        """Share of the skill's budget that is spent, or None where no budget was given."""
        if self._skill_steps is None:
            return None
        return (self.num_timesteps - self._skill_start) / self._skill_steps

    def skill_index(self, name: str) -> int:
        """Index of a skill by name; ValueError where the agent has none of that name."""
        if name not in self.skills:
            known = ", ".join(self.skills) or "none yet"
            raise ValueError(f"the agent has no skill {name!r}; it has {known}")
        return self.skills.index(name)

    def for_skill(self, name: str) -> SkillPolicy:
        """The policy of one skill, with SB3's `predict`; what is being learned stays selected."""
        return SkillPolicy(self, self.skill_index(name))

    def newest(self) -> SkillPolicy:
        """The policy of the skill being learned, whatever is asked of it."""
        return SkillPolicy(self, self.skill)

    def act(self, observation: Array, skill: str, deterministic: bool = True) -> Array:
        """Action for an observation (obs,) or a batch (n, obs) in a skill."""
        action: Array = self.for_skill(skill).predict(observation, deterministic=deterministic)[0]
        return action

    # What protections ask for

    def gaussian(self, observations: Tensor, skill: int) -> tuple[Tensor, Tensor]:
        """Mean and log-std of the action in a skill, each (batch, act), before squashing."""
        result: tuple[Tensor, Tensor] = self.policy.gaussian(observations, skill)
        return result

    def pull(
        self,
        observations: dict[int, Tensor],
        loss: Callable[[Tensor, Tensor], Tensor],
        max_norm: float,
    ) -> None:
        """Add the clipped gradient of a loss of the action's distribution to `.grad`.

        Args:
            observations: Of each of some skills, (share, obs), the same number of each.
            loss: Of mean and log-std, each (rows, act), the rows skill after skill.
            max_norm: Bound of the gradient's norm.
        """
        outputs = [self.gaussian(rows, skill) for skill, rows in observations.items()]
        mean, log_std = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        actor = [p for p in self.policy.parameters() if p.requires_grad]
        add_gradient(loss(mean, log_std), actor, max_norm)

    def trunk(self) -> list[nn.Module]:
        """Layers of the actor that all skills share."""
        layers: list[nn.Module] = self.policy.trunk()
        return layers

    def visited(self, count: int) -> Tensor:
        """Up to `count` observations of the skill's experience, without replacement, (n, obs)."""
        rows = torch.as_tensor(self._experience())
        keep = torch.randperm(len(rows), generator=self._generator)[:count]
        return rows[keep.to(rows.device)].to(self.device).float()

    def plasticity(self) -> dict[str, float]:
        """`plasticity.figures` of the newest skill, in states evenly spread over its experience."""
        rows = torch.as_tensor(self._experience())
        rows = rows[:: -(-len(rows) // _STATES)].to(self.device).float()
        return figures(self.policy, rows, self.skill)

    @property
    def protection_bytes(self) -> int:
        """Memory of all protections."""
        return sum(protection.bytes for protection in self.protections)

    def _experience(self) -> Array:
        raise NotImplementedError

    def fresh_moments(self) -> None:
        """Forget what the optimizers remember of earlier gradients."""
        self.policy.fresh_optimizers()
        self._register_hooks()

    def _start_afresh(self) -> None:
        self.fresh_moments()

    # Hooks

    def _optimizers(self) -> dict[str, tuple[torch.optim.Optimizer, str]]:
        """Optimizers by the name of their loss, with the protections' hook for each."""
        raise NotImplementedError

    def _watched(self) -> dict[str, torch.optim.Optimizer]:
        """Optimizers whose weights are looked at after `train()`, by the name of their loss."""
        return {name: optimizer for name, (optimizer, _) in self._optimizers().items()}

    def _register_hooks(self) -> None:
        for name, (optimizer, hook) in self._optimizers().items():
            optimizer.register_step_pre_hook(self._before_step(name, hook))

    def _before_step(self, name: str, hook: str) -> Callable[..., None]:
        def before(optimizer: torch.optim.Optimizer, *_: object) -> None:
            self._protect(hook)
            if not self._on_device():
                check_gradients(self, parameters(optimizer), name)

        return before

    def _on_device(self) -> bool:
        """Whether a look at an update waits for a device, where one after `train()` serves all.

        Adam makes a weight that is not finite of such a gradient; it stays so and spoils every
        later one.
        """
        return self.device.type != "cpu"

    def _stop_if_broken(self) -> None:
        for name, optimizer in self._watched().items():
            if self._on_device():
                check_gradients(self, parameters(optimizer), name)
            check_weights(self, parameters(optimizer), name)
        if quantity := self.unread.read():
            raise NumericalError(message(self, quantity))
        check_losses(self)

    def _protect(self, hook: str) -> None:
        start = time.perf_counter()
        for protection in self.protections:
            if protection.strength > 0.0:
                getattr(protection, hook)(self)
        self.protection_seconds += time.perf_counter() - start

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> BaseCallback:
        own: list[Any] = [Guard()]
        if isinstance(callback, list):
            own += callback
        elif isinstance(callback, BaseCallback):
            own.append(callback)
        elif callback is not None:
            own.append(ConvertCallback(callback))
        made: BaseCallback = super()._init_callback(CallbackList(own), progress_bar)
        return made

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        if (progress := self.skill_progress) is not None:
            self._current_progress_remaining = max(0.0, 1.0 - progress)

    # State

    def train_state(self, experience: bool = True) -> dict[str, Any]:
        """Everything needed to go on training bit for bit, but for the environment's state.

        Args:
            experience: Include stored experience, which may be large; a new skill needs none.

        Returns:
            Nested dicts and lists of tensors, arrays, numbers and strings.
        """
        return {
            "plain": {name: copy.copy(getattr(self, name, None)) for name in _PLAIN},
            "importance": list(self.skill_importance),
            "policy": dict(self.policy.state_dict()),
            "optimizers": {n: o.state_dict() for n, (o, _) in self._optimizers().items()},
            "protections": [protection.state_dict() for protection in self.protections],
            "generator": self._generator.get_state(),
            "last_obs": self._last_obs,
            "last_episode_starts": self._last_episode_starts,
            "episodes": [list(self.ep_info_buffer or []), list(self.ep_success_buffer or [])],
            "random": saved.get_random(self.action_space, self.device),
        }

    def load_train_state(self, state: dict[str, Any]) -> None:
        """Take back what `train_state` gave, in an agent built with the same arguments.

        Raises:
            ValueError: the state is of an agent with other networks or protections.
        """
        plain = saved.plain(state["plain"], _PLAIN)
        heads = max(1, len(plain["skills"]))
        while self.policy.n_heads < heads:
            self.policy.add_head()
        self.policy_kwargs = self.policy_kwargs | {"n_heads": heads}
        self._start_afresh()
        for name, value in plain.items():
            setattr(self, name, value)
        self.skill_importance = saved.importance(state, len(self.skills))
        self.policy.load_state_dict(saved.finite(state["policy"]))
        self.policy.select(self.skill)
        for name, (optimizer, _) in self._optimizers().items():
            saved.load_moments(optimizer, state["optimizers"][name])
        if len(state["protections"]) != len(self.protections):
            raise ValueError(
                f"{len(state['protections'])} protections were saved, "
                f"the agent has {len(self.protections)}"
            )
        for protection, memory in zip(self.protections, state["protections"], strict=True):
            protection.load_state_dict(saved.placed(memory, self.device))
        self._generator.set_state(state["generator"])
        self._last_obs = state["last_obs"]
        self._last_episode_starts = state["last_episode_starts"]
        self._init_episode_buffers(*state["episodes"])
        saved.set_random(state["random"], self.action_space, self.device)

    def _init_episode_buffers(self, infos: list[Any], successes: list[Any]) -> None:
        size = self._stats_window_size
        self.ep_info_buffer = deque(infos, maxlen=size)
        self.ep_success_buffer = deque(successes, maxlen=size)

    @classmethod
    def load(cls, path: Any, *args: Any, trust_pickle: bool = False, **kwargs: Any) -> Any:
        """SB3's `load`, which runs whatever the file tells it to.

        Args:
            path: A file that `save` wrote.
            args: As SB3's `load`.
            trust_pickle: That you trust whoever made the file.
            kwargs: As SB3's `load`.

        Raises:
            ValueError: `trust_pickle` is not given.
        """
        require_trust(path, trust_pickle)
        return super().load(path, *args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_generator", "unread"]
