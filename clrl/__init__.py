"""clrl: continual reinforcement learning for robot skills."""

__version__ = "0.1.0"
