"""clrl: continual reinforcement learning for robot skills.

`import clrl` registers the skills with Gymnasium and loads neither torch nor MuJoCo; the functions
below load them when first used. With numpy and onnxruntime alone, `clrl.deploy` works.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clrl.envs.catalog import register as _register

if TYPE_CHECKING:
    from clrl.adaptation import adapt
    from clrl.api import evaluate, load
    from clrl.run import Run
    from clrl.sb3_import import from_sb3
    from clrl.trainer import resume, train

__version__ = "0.1.0"

__all__ = ["Run", "adapt", "evaluate", "from_sb3", "load", "resume", "train"]

_EXPORTS = {
    "Run": "clrl.run",
    "adapt": "clrl.adaptation",
    "evaluate": "clrl.api",
    "from_sb3": "clrl.sb3_import",
    "load": "clrl.api",
    "resume": "clrl.trainer",
    "train": "clrl.trainer",
}

_register()


def __getattr__(name: str) -> Any:
    if name == "deploy":
        return import_module("clrl.deploy")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'clrl' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
