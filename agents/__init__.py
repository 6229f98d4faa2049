"""clrl.agents: Stable-Baselines3 agents that learn skill after skill, and what protects them."""

if __name__ != "clrl.agents":
    raise ImportError("this folder is the source of clrl.agents; import that instead")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clrl.agents.catalog import AGENTS, PROTECTIONS, make_agent, make_protection
    from clrl.agents.clear import CLEAR
    from clrl.agents.clonex import ClonEx
    from clrl.agents.distillation import PolicyDistillation
    from clrl.agents.ewc import EWC
    from clrl.agents.guard import NumericalError
    from clrl.agents.joint import JointPPO
    from clrl.agents.perfect import PerfectMemory
    from clrl.agents.ppo import ContinualPPO
    from clrl.agents.protection import Protection
    from clrl.agents.replay import ReservoirReplay
    from clrl.agents.reservoir import Reservoir
    from clrl.agents.sac import ContinualSAC

# Name to the module it lives in, loaded when first asked for: importing clrl costs no torch.
_EXPORTS = {
    "AGENTS": "catalog",
    "PROTECTIONS": "catalog",
    "make_agent": "catalog",
    "make_protection": "catalog",
    "CLEAR": "clear",
    "ClonEx": "clonex",
    "PolicyDistillation": "distillation",
    "EWC": "ewc",
    "NumericalError": "guard",
    "JointPPO": "joint",
    "PerfectMemory": "perfect",
    "ContinualPPO": "ppo",
    "Protection": "protection",
    "ReservoirReplay": "replay",
    "Reservoir": "reservoir",
    "ContinualSAC": "sac",
}

__all__ = [
    "AGENTS",
    "CLEAR",
    "EWC",
    "PROTECTIONS",
    "ClonEx",
    "ContinualPPO",
    "ContinualSAC",
    "JointPPO",
    "NumericalError",
    "PerfectMemory",
    "PolicyDistillation",
    "Protection",
    "Reservoir",
    "ReservoirReplay",
    "make_agent",
    "make_protection",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
