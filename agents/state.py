"""Parts of a training state: random generators, and tensors put where they belong."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def placed(state: Any, device: torch.device) -> Any:
    """A nested state, which comes from a file on the CPU, with its floats on a device.

    What is no float, such as a generator's state, stays.
    """
    if isinstance(state, dict):
        return {key: placed(value, device) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [placed(value, device) for value in state]
    floats = isinstance(state, Tensor) and state.is_floating_point()
    return state.to(device) if floats else state


def get_random(action_space: Any, device: torch.device) -> dict[str, Any]:
    """States of all generators that a training draws from."""
    version, internal, gauss = random.getstate()
    # SB3 samples batches with NumPy's global generator.
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, keys, position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "action_space": action_space.np_random.bit_generator.state,
    }
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random(state: dict[str, Any], action_space: Any, device: torch.device) -> None:
    """Take back what `get_random` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    action_space.np_random.bit_generator.state = state["action_space"]
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
