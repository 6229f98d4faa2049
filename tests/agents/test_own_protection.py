"""What is told of protections that users write."""

from typing import Any

import pytest
import torch

from clrl.agents import EWC, Protection
from tests.agents.conftest import make_agent


def test_a_protection_of_ones_own_counts_what_it_remembers() -> None:
    class Own(Protection):
        def state_dict(self) -> dict[str, Any]:
            return super().state_dict() | {"kept": [torch.zeros(5), {"more": torch.zeros(2)}]}

    assert Own().bytes == 28
    assert Protection().bytes == 0


class _Anchored(Protection):
    """Remembers a tensor, and saves nothing."""

    def after_skill(self, learner: Any) -> None:
        self.anchor = torch.zeros(3)


class _Saves(_Anchored):
    def state_dict(self) -> dict[str, Any]:
        return {"anchor": self.anchor}


class _SavesAndLoads(_Saves):
    anchor = torch.zeros(3)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.anchor = state["anchor"]


class _NoLearner(Protection):
    def update(self) -> None:  # type: ignore[override]
        pass


def test_a_hook_takes_the_learner() -> None:
    assert "its update is called with the learner" in _NoLearner().trouble()


def test_what_a_protection_forgets_to_save_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert EWC().trouble() == ""
    assert "needs both" in _Saves().trouble()
    assert "lacks 'calls', which super().state_dict() gives" in _SavesAndLoads().trouble()
    agent = make_agent("ppo", protect=[_Anchored()])
    agent.end_skill()
    assert "_Anchored keeps anchor, which no state_dict of its saves" in caplog.text
