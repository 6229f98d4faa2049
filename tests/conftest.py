"""Settings every test shares."""

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# A shared machine may pause any example for longer than hypothesis allows.
settings.register_profile("clrl", deadline=None)
settings.load_profile("clrl")


@pytest.fixture(autouse=True, scope="module")
def _room() -> Iterator[None]:
    """Agents hold themselves in circles, and their buffers are larger than Python can see."""
    yield
    gc.collect()
