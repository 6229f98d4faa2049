"""Names of agents and protections, and how to build them; loads torch only when building."""

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING, Any

from clrl.agents.options import ACTIVATIONS, check_layers, check_options, check_ranges, options_of

if TYPE_CHECKING:
    from gymnasium import spaces

    from clrl.agents.continual import Continual
    from clrl.agents.protection import Protection

AGENTS = {"ppo": "clrl.agents.ppo:ContinualPPO", "sac": "clrl.agents.sac:ContinualSAC"}
JOINT = {"ppo": "clrl.agents.joint:JointPPO", "sac": "clrl.agents.joint_sac:JointSAC"}

PROTECTIONS = {
    "ewc": "clrl.agents.ewc:EWC",
    "online-ewc": "clrl.agents.ewc:OnlineEWC",
    "l2": "clrl.agents.l2:L2",
    "si": "clrl.agents.synaptic_intelligence:SynapticIntelligence",
    "mas": "clrl.agents.mas:MAS",
    "agem": "clrl.agents.agem:AGEM",
    "packnet": "clrl.agents.packnet:PackNet",
    "distill": "clrl.agents.distillation:PolicyDistillation",
    "replay": "clrl.agents.replay:ReservoirReplay",
    "redo": "clrl.agents.redo:ReDo",
    "progressive": "clrl.agents.progressive:Progressive",
    "compress": "clrl.agents.compress:ProgressAndCompress",
    "clear": "clrl.agents.clear:CLEAR",
    "clonex": "clrl.agents.clonex:ClonEx",
    "perfect": "clrl.agents.perfect:PerfectMemory",
}


def check_protections(names: Sequence[str]) -> None:
    """Raise ValueError at the first name that is no protection, or is there twice."""
    for name in names:
        if name not in PROTECTIONS and ":" not in name:
            raise ValueError(f"unknown protection {name!r}; choose from {', '.join(PROTECTIONS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"a protection is named twice: {', '.join(names)}")


def make_protection(name: str, **options: Any) -> "Protection":
    """Build a protection by its name in `PROTECTIONS`, or from "module:Class".

    Raises:
        ValueError: nothing has that name, or it does not take those options.
    """
    kind = _protection(name)
    if not kind.hooks():
        raise ValueError(f"protection {name!r} does nothing: it has no hook, such as `update`")
    check_options(f"protection {name!r}", kind, options)
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"protection {name!r}: {error}") from None


def takes(name: str, option: str) -> bool:
    """Whether a protection has an option; errors are those of `make_protection`."""
    return option in options_of(_protection(name))


def _protection(name: str) -> "type[Protection]":
    from clrl.agents.protection import Protection

    check_protections([name])
    kind = _load(PROTECTIONS.get(name, name))
    if not (isinstance(kind, type) and issubclass(kind, Protection)):  # a file may have named it
        raise ValueError(f"{name!r} is no protection: it is no subclass of clrl.agents.Protection")
    return kind


def make_agent(
    name: str,
    observation_space: "spaces.Box",
    action_space: "spaces.Box",
    *,
    worlds: int = 1,
    protect: Mapping[str, Mapping[str, Any]] | None = None,
    joint: bool = False,
    seed: int = 0,
    device: str = "cpu",
    **options: Any,
) -> "Continual":
    """Build an agent before there is an environment; `begin_skill` brings one.

    Args:
        name: A name of `AGENTS`.
        observation_space: Of every skill it will learn.
        action_space: Of every skill it will learn.
        worlds: Environments stepped at once in training.
        protect: Names of protections with their options.
        joint: Whether it learns all skills at once.
        seed: Seeds networks, draws and protections.
        device: Of the networks.
        options: Arguments of the agent's class.

    Raises:
        ValueError: an unknown name, or an option that the class does not take.
    """
    if name not in AGENTS:
        raise ValueError(f"unknown agent {name!r}; choose from {', '.join(AGENTS)}")
    options = deepcopy(options)  # SB3 writes into policy_kwargs
    protections = [
        make_protection(other, **({"seed": seed} if takes(other, "seed") else {}) | dict(chosen))
        for other, chosen in (protect or {}).items()
    ]
    if name == "sac":  # SB3 derives it from an environment, of which there is none yet
        options.setdefault("target_entropy", -float(action_space.shape[0]))
    kind = _load((JOINT if joint else AGENTS)[name])
    check_options(f"agent {name!r}", kind, options)
    check_ranges(f"agent {name!r}", options)
    policy, chosen = kind.policy_aliases["MlpPolicy"], options.get("policy_kwargs") or {}
    if isinstance(named := chosen.get("activation_fn"), str):  # as a file holds it
        chosen["activation_fn"] = _activation(named)
    check_options(f"agent {name!r}: policy_kwargs", policy, chosen)
    if chosen.get("net_arch") is not None:
        check_layers(f"agent {name!r}", chosen["net_arch"], "qf" if kind.off_policy else "vf")
    try:
        agent: Continual = kind(
            "MlpPolicy",
            None,
            protect=protections,
            seed=seed,
            device=device,
            _init_setup_model=False,
            **options,
        )
        agent.observation_space = observation_space
        agent.action_space = action_space
        agent.n_envs = worlds
        agent._setup_model()
    except (ArithmeticError, AssertionError, AttributeError, LookupError) as error:
        raise ValueError(f"agent {name!r}: {type(error).__name__}: {error}") from error
    except (TypeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"agent {name!r}: {error or 'its options take more memory'}") from error
    return agent


def _activation(name: str) -> type:
    from torch import nn

    if name not in ACTIVATIONS:
        raise ValueError(f"activation_fn must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    found: type = getattr(nn, name)
    return found


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:  # nothing of ours is there
        raise ValueError(f"{path!r} is of Python's own library, not a protection")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        hint = f"; PYTHONPATH must lead to {module}" if isinstance(error, ImportError) else ""
        raise ValueError(f"{path!r} cannot be imported: {error}{hint}") from None
