"""Which bundle and which skill."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.optim import AdamWConfig


@PreTrainedConfig.register_subclass("clrl")
@dataclass
class ClrlConfig(PreTrainedConfig):
    """A trained bundle; it is not trained further here.

    Attributes:
        bundle: Folder that `clrl export` wrote.
        skill: The skill to act in.
    """

    bundle: str = ""
    skill: str = ""

    def validate_features(self) -> None:
        """Ask for a state and an action."""
        if self.robot_state_feature is None or self.action_feature is None:
            raise ValueError("a clrl bundle needs observation.state and action")

    def get_optimizer_preset(self) -> AdamWConfig:
        """Never used."""
        return AdamWConfig()

    def get_scheduler_preset(self) -> None:
        """Never used."""
        return None

    @property
    def observation_delta_indices(self) -> None:
        """One frame."""
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        """One action."""
        return [0]

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return None
