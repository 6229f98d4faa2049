"""The policy that LeRobot asks for actions."""

from typing import Any

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import OBS_STATE
from torch import Tensor

from .acting import Acting
from .configuration_clrl import ClrlConfig


class ClrlPolicy(PreTrainedPolicy):
    """Acts by a bundle, whose graph holds normaliser, scaling and limits."""

    config_class = ClrlConfig
    name = "clrl"

    def __init__(self, config: ClrlConfig, dataset_stats: dict[str, Any] | None = None) -> None:
        super().__init__(config, dataset_stats)
        config.validate_features()
        self._acting = Acting(config.bundle, config.skill)

    def reset(self) -> None:
        """Forget the last episode."""
        self._acting.reset()

    def get_optim_params(self) -> dict[str, Any]:
        """Nothing to train."""
        return {"params": []}

    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Actions (batch, act) for `observation.state`."""
        states = batch[OBS_STATE]
        return torch.from_numpy(self._acting(states.cpu().numpy())).to(states.device)

    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """A chunk of one action, (batch, 1, act)."""
        return self.select_action(batch)[:, None]

    def forward(self, batch: dict[str, Tensor], **_: Any) -> tuple[Tensor, dict[str, Any] | None]:
        """Refuse: a bundle is trained by `clrl train`."""
        raise NotImplementedError("a clrl bundle is not trained in LeRobot; use `clrl train`")
