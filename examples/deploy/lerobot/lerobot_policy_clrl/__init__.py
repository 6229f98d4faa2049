"""Bundles of clrl as a LeRobot policy, found by its package name."""

from .configuration_clrl import ClrlConfig
from .modeling_clrl import ClrlPolicy
from .processor_clrl import make_clrl_pre_post_processors

__all__ = ["ClrlConfig", "ClrlPolicy", "make_clrl_pre_post_processors"]
