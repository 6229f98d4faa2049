"""Settings every test shares."""

import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# A shared machine may pause any example for longer than hypothesis allows. The same cases every
# time, so that a change fails for what it changed; `--hypothesis-profile search` draws new ones.
settings.register_profile("search", deadline=None, derandomize=False)
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")


@pytest.fixture(autouse=True, scope="module")
def _room() -> Iterator[None]:
    """Agents hold themselves in circles, and their buffers are larger than Python can see.

    What is left then stays, and every later look passes over it.
    """
    yield
    gc.collect()
    gc.freeze()
