"""clrl.agents: Stable-Baselines3 agents that learn skill after skill, and what protects them."""

if __name__ != "clrl.agents":
    raise ImportError("this folder is the source of clrl.agents; import that instead")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clrl.agents.agem import AGEM
    from clrl.agents.catalog import AGENTS, PROTECTIONS, make_agent, make_protection
    from clrl.agents.clear import CLEAR
    from clrl.agents.clonex import ClonEx
    from clrl.agents.compress import ProgressAndCompress
    from clrl.agents.distillation import PolicyDistillation
    from clrl.agents.ewc import EWC, OnlineEWC
    from clrl.agents.guard import NumericalError
    from clrl.agents.joint import JointPPO
    from clrl.agents.joint_sac import JointSAC
    from clrl.agents.l2 import L2
    from clrl.agents.mas import MAS
    from clrl.agents.packnet import PackNet
    from clrl.agents.perfect import PerfectMemory
    from clrl.agents.ppo import ContinualPPO
    from clrl.agents.progressive import Progressive
    from clrl.agents.protection import Protection
    from clrl.agents.quadratic import QuadraticPenalty
    from clrl.agents.redo import ReDo
    from clrl.agents.replay import ReservoirReplay
    from clrl.agents.reservoir import Reservoir
    from clrl.agents.sac import ContinualSAC
    from clrl.agents.synaptic_intelligence import SynapticIntelligence

# Name to the module it lives in, loaded when first asked for: importing clrl costs no torch.
_EXPORTS = {
    "AGENTS": "catalog",
    "PROTECTIONS": "catalog",
    "make_agent": "catalog",
    "make_protection": "catalog",
    "AGEM": "agem",
    "CLEAR": "clear",
    "ClonEx": "clonex",
    "ProgressAndCompress": "compress",
    "PolicyDistillation": "distillation",
    "EWC": "ewc",
    "OnlineEWC": "ewc",
    "NumericalError": "guard",
    "L2": "l2",
    "MAS": "mas",
    "PackNet": "packnet",
    "JointPPO": "joint",
    "JointSAC": "joint_sac",
    "PerfectMemory": "perfect",
    "ContinualPPO": "ppo",
    "Progressive": "progressive",
    "Protection": "protection",
    "QuadraticPenalty": "quadratic",
    "ReDo": "redo",
    "ReservoirReplay": "replay",
    "Reservoir": "reservoir",
    "ContinualSAC": "sac",
    "SynapticIntelligence": "synaptic_intelligence",
}

__all__ = [
    "AGEM",
    "AGENTS",
    "CLEAR",
    "EWC",
    "L2",
    "MAS",
    "PROTECTIONS",
    "ClonEx",
    "ContinualPPO",
    "ContinualSAC",
    "JointPPO",
    "JointSAC",
    "NumericalError",
    "OnlineEWC",
    "PackNet",
    "PerfectMemory",
    "PolicyDistillation",
    "ProgressAndCompress",
    "Progressive",
    "Protection",
    "QuadraticPenalty",
    "ReDo",
    "Reservoir",
    "ReservoirReplay",
    "SynapticIntelligence",
    "make_agent",
    "make_protection",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
