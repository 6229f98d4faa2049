"""What of a saved state is taken back, and only if it is what it must be.

A state may come from a file of others: what torch and NumPy would take without a look, or with
another shape, is looked at here. Optimisers step past the end of moments that are too short, and
NumPy's generator reads past its keys.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KEYS = 624  # words of a Mersenne twister


def plain(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Counters and names of skills, by the names given and no others.

    Raises:
        ValueError: one is missing, or no finite number; or skills are no distinct names.
    """
    found = {name: values[name] for name in names}
    skills = found["skills"]
    if not (isinstance(skills, list) and all(isinstance(skill, str) for skill in skills)):
        raise ValueError("its skills are no names")
    if len(set(skills)) < len(skills):
        raise ValueError(f"a skill is named twice: {', '.join(skills)}")
    for name, value in found.items():
        if name != "skills" and value is not None and not _is_number(value):
            raise ValueError(f"{name} is no finite number")
    return found


def importance(state: Mapping[str, Any], skills: int) -> list[float]:
    """Of each skill; 1 in checkpoints that were made before there was any.

    Raises:
        ValueError: they are not as many finite numbers >= 0.
    """
    found = state.get("importance", [1.0] * skills)
    if not isinstance(found, list) or len(found) != skills:
        raise ValueError(f"its {skills} skills have another number of importances")
    if not all(_is_number(value) and value >= 0.0 for value in found):
        raise ValueError("an importance is no finite number >= 0")
    return found


def finite(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """Weights and statistics, if all are finite; ValueError otherwise."""
    for name, tensor in tensors.items():
        if not (isinstance(tensor, Tensor) and tensor.isfinite().all()):
            raise ValueError(f"{name} is not finite")
    return tensors


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state.

    Raises:
        ValueError: a moment has another shape than its parameter, or a setting is no number.
    """
    before = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, known in zip(optimizer.param_groups, before, strict=True):
        for name, value in known.items():
            if not _is_like(group.get(name), value):
                raise ValueError(f"the optimiser's {name} is {str(group.get(name))[:60]!r}")
        for parameter in group["params"]:
            for name, moment in optimizer.state.get(parameter, {}).items():
                shape = () if name == "step" else parameter.shape
                if not (isinstance(moment, Tensor) and moment.shape == shape):
                    raise ValueError(f"the optimiser's {name} has another shape than its weight")


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
    """State of every generator that training draws from."""
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
    """Take back what `get_random` gave.

    Raises:
        ValueError: it is the state of another generator.
    """
    version, internal, gauss = state["python"]
    kind, keys, position, has_gauss, cached = state["numpy"]
    if kind != "MT19937" or not (_is_number(position) and 0 <= position <= _KEYS):
        raise ValueError("the state of NumPy's generator is not one")
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state((kind, keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    action_space.np_random.bit_generator.state = state["action_space"]
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _is_like(value: Any, known: Any) -> bool:
    """Whether a setting of an optimiser is of the kind it had."""
    if isinstance(known, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(known)
        return same and all(map(_is_like, value, known))
    if isinstance(known, bool) or known is None:
        return value is None or isinstance(value, bool)
    return _is_number(value) if isinstance(known, int | float) else True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
