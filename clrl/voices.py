"""What a bundle speaks with: for every skill the agent that performs it, and what was measured.

The skills of a run share its newest networks. A variant that `clrl adapt` made from that run brings
its own shared layers along with its head, so that the run's skills stay as they are to the bit.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from clrl import checkpoint
from clrl.envs.curriculum import Curriculum, Task
from clrl.eval.retention import Retention
from clrl.run import Run


@dataclass(frozen=True)
class Voice:
    """One skill of a bundle.

    Attributes:
        name: Of the skill.
        task: What it is.
        agent: Who performs it.
        retention: The result that holds what was measured of it.
        varies: Whether its shared layers are its own, not those of the run.
    """

    name: str
    task: Task
    agent: Any
    retention: Retention
    varies: bool = False

    @property
    def index(self) -> int:
        """Of its head and statistics in its agent."""
        found: int = self.agent.skill_index(self.name)
        return found

    @property
    def measured(self) -> dict[str, float]:
        """Success with its interval, success when it was learned, and return."""
        r, i = self.retention, self.index
        return {
            "success": r.success[-1][i],
            "success_low": r.success_low[-1][i],
            "success_high": r.success_high[-1][i],
            "success_when_learned": r.success[i + 1][i],
            "return": r.returns[-1][i],
        }

    @property
    def layers(self) -> list[nn.Module]:
        """From normalised observation to the action's mean: shared layers, then its head; copies.

        They are as the skill sees them: a protection may give each its own weights.
        """
        policy, index = self.agent.policy, self.index
        actor = getattr(policy, "actor", policy)
        is_sac = actor is not policy
        shared = actor.latent_pi if is_sac else policy.mlp_extractor.policy_net
        heads = (actor.mu if is_sac else policy.action_net).layers
        with policy.using(index):
            return deepcopy([*shared, heads[index if len(heads) > 1 else 0]])

    @property
    def size(self) -> int:
        """Bytes of its layers and of its observation statistics, as float32."""
        own = (p for layer in self.layers for p in layer.parameters())
        statistics: int = 2 * self.agent.policy.features.mean[0].nbytes
        return statistics + sum(p.nbytes for p in own)


def voices_of(run: Run, variants: Sequence[Run] = ()) -> list[Voice]:
    """Voices of a finished run, and of the skills that were added to it in other runs.

    Args:
        run: What was trained.
        variants: Runs that `clrl adapt` made from it, each with its own networks.

    Raises:
        ValueError: a run is not finished, a variant was made from another run, or two skills share
            a name.
    """
    finals = run.finished()
    voices = _voices(run, run.agent(finals[-1]), 0)
    count = len(voices)
    for variant in variants:
        inherited = variant.finished()[: count + 1]
        same = [checkpoint.fingerprint(path) for path in (inherited[-1], finals[-1])]
        if len(inherited) <= count or len(variant.curriculum) == count or len(set(same)) > 1:
            raise ValueError(f"{variant.path} was not made from {run.path} by `clrl adapt`")
        voices += _voices(variant, variant.agent(variant.finals()[-1]), count)
    names = [voice.name for voice in voices]
    if len(set(names)) < len(names):
        raise ValueError(f"two skills share a name: {', '.join(names)}; adapt again with a --name")
    return voices


def joint_curriculum(run: Run, voices: Sequence[Voice]) -> Curriculum:
    """The run's curriculum with the skills of its variants."""
    own = len(run.curriculum)
    name = "+".join((run.curriculum.name, *(voice.name for voice in voices[own:])))
    return Curriculum(name, [voice.task for voice in voices])


def _voices(run: Run, agent: Any, start: int) -> list[Voice]:
    skills, retention = run.curriculum.skills, run.retention()
    return [Voice(skill.name, skill, agent, retention, start > 0) for skill in skills[start:]]
