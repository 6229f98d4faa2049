"""clrl: continual reinforcement learning for robot skills."""

from clrl.envs.catalog import register as _register

__version__ = "0.1.0"

_register()
