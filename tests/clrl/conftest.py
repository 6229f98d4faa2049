"""Runs in tests look at their skills less often than runs do."""

import pytest

from clrl import trainer


@pytest.fixture(autouse=True, scope="session")
def _short_probes() -> None:
    trainer._PROBE_EPISODES = 2
