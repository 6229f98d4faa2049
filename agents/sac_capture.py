"""SAC's gradient steps as CUDA graphs: a GPU runs their 150 small kernels at one launch.

Launched one by one they take the host far longer than the GPU. Captured is all that asks nothing of
the host: where a protection looks at an optimizer's gradients, that optimizer steps between two
graphs, and Python finds every `.grad` as usual.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from clrl.agents import adam
from clrl.agents.fused import fusing
from clrl.agents.sac_update import GradientSteps, watched

_LOG = logging.getLogger(__name__)
_EAGER = 3  # steps before the capture, in which libraries and optimizers allocate what they keep
_PIECE = 8192  # numbers that one block of a GPU updates; torch gives it 65,536 of one tensor

Phase = Callable[[], object]


class CapturedSteps(GradientSteps):
    """Gradient steps that are launched as graphs, after a few that are not.

    Graphs hold addresses and numbers of what they were captured with; `fits` tells whether these
    are the agent's still.
    """

    def __init__(self, agent: Any, batch_size: int) -> None:
        super().__init__(agent)
        self._eager: float = _EAGER  # steps left to take without graphs
        self._facts = (batch_size, *self._settings())
        self._addresses: list[int] = []
        self._launches: list[Phase] = []
        self._rows: Tensor | None = None
        self._rate = torch.zeros((), device=agent.device)
        self._recording = False
        self._slow, self._online = pieces(self._slow), pieces(self._online)

    def fits(self, batch_size: int) -> bool:
        """Whether steps of this batch size are those that were captured, or will be."""
        same = (batch_size, *self._settings()) == self._facts
        return same and (not self._launches or self._places() == self._addresses)

    @torch.no_grad()
    def step(self, rows: Tensor, polyak: bool) -> None:
        """As of `GradientSteps`."""
        with fusing():
            if not self._eager and not self._launches:
                self._try_to_capture(rows)
            if self._eager:
                self._eager -= 1
                super().step(rows, polyak)
                return
        assert self._rows is not None
        self._rows.copy_(rows)
        self._rate.fill_(self._agent.actor.optimizer.param_groups[0]["lr"])
        for launch in self._launches:
            launch()
        if polyak and not self._follows:
            self.follow()

    def _try_to_capture(self, rows: Tensor) -> None:
        self._rows, self._recording = rows.clone(), True
        try:
            self._launches = self._capture(self._rows)
            self._addresses = self._places()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            _LOG.warning("clrl: gradient steps are not captured, which costs time: %s", reason)
            self._eager = float("inf")
        finally:
            self._recording = False

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """As of `GradientSteps`; while a graph is recorded, without those who look on."""
        if self._recording:
            adam.move(optimizer, rate=self._rate, cut=pieces)
        else:
            super().apply(optimizer)

    def _capture(self, rows: Tensor) -> list[Phase]:
        """Record the phases; between graphs, optimizers step that somebody looks on at."""
        agent = self._agent
        graphs: list[list[Phase]] = [[lambda: self.improve_critics(self.judge(rows))]]
        between: list[torch.optim.Optimizer] = []
        for optimizer, hook, following in (
            (agent.critic.optimizer, "update_critic", [lambda: self.improve_actor(self.slopes())]),
            (agent.actor.optimizer, "update", [self.follow] if self._follows else []),
        ):
            if watched(agent, optimizer, hook):
                between.append(optimizer)
                graphs.append([])
            else:
                graphs[-1].append(partial(self.apply, optimizer))
            graphs[-1] += following
        launches: list[Phase] = []
        for i, phases in enumerate(graphs):
            if phases:
                launches.append(self._record(phases))
            if i < len(between):
                launches.append(self._with_gradients(between[i]))
        return launches

    def _record(self, phases: list[Phase]) -> Phase:
        """Phases as one CUDA graph, which nothing has run yet."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for phase in phases:
                phase()
        replay: Phase = graph.replay
        return replay

    def _with_gradients(self, optimizer: torch.optim.Optimizer) -> Phase:
        """A step of an optimizer on the gradients that graphs write, whatever was done to them."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]

        def step() -> None:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            self.apply(optimizer)

        return step

    @property
    def _follows(self) -> bool:
        """Whether the targets move in every step, so that a graph does it."""
        always: bool = self._agent.target_update_interval == 1
        return always

    def _settings(self) -> tuple[Any, ...]:
        """What a graph holds as it was captured, tensors aside."""
        agent = self._agent
        names = ("gamma", "tau", "target_entropy", "target_update_interval", "replay_buffer")
        hooks = [(p, p.strength > 0.0) for p in agent.protections]
        numbers = tuple(getattr(agent, name) for name in names)
        return (*numbers, agent.learned, hooks, *_optimizers(agent))

    def _places(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self._lasting()]

    def _lasting(self) -> list[Tensor]:
        """All tensors that outlive a step, gradients aside."""
        agent = self._agent
        states = (state.values() for o in _optimizers(agent) for state in o.state.values())
        buffer = vars(agent.replay_buffer).values()
        temperature = [agent.log_ent_coef, getattr(agent, "ent_coef_tensor", None)]
        tensors = chain(
            agent.policy.parameters(), agent.policy.buffers(), *states, buffer, temperature
        )
        return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def can_capture(device: torch.device) -> bool:
    """Whether a device runs CUDA graphs."""
    return device.type == "cuda"


def pieces(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of tensors' numbers, of up to `_PIECE` each."""
    return [piece for tensor in tensors for piece in tensor.detach().view(-1).split(_PIECE)]


def _optimizers(agent: Any) -> list[torch.optim.Optimizer]:
    all_of_them = (agent.critic.optimizer, agent.actor.optimizer, agent.ent_coef_optimizer)
    return [optimizer for optimizer in all_of_them if optimizer is not None]
