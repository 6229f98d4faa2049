"""What the numbers of an observation and an action mean, for whoever acts on them elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gymnasium import spaces


@dataclass(frozen=True)
class Part:
    """A named run of numbers.

    Attributes:
        name: Unique within its layout.
        elements: Name of each number, in order.
        unit: Of a number times `scale`; "1" for a pure number, "" where nobody said.
        text: What it is, in a few words.
        scale: What one is worth in the unit.
        kind: Its kind in NVIDIA's LEAPP, such as "state/body/position"; "" where none fits.
        stop: For an action: its value when the robot must stop; None keeps the last one.
    """

    name: str
    elements: tuple[str, ...]
    unit: str
    text: str = ""
    scale: float = 1.0
    kind: str = ""
    stop: float | None = 0.0


Layout = tuple[Part, ...]
XYZ = ("x", "y", "z")


def layout_of(skill: Any, which: str) -> Layout:
    """What a skill declares as `observation_layout` or `action_layout`, or else one nameless part.

    Args:
        skill: Of a curriculum.
        which: "observation" or "action".

    Returns:
        Parts in order; what is recalled comes first, the oldest as "NAME_past_ROWS".

    Raises:
        ValueError: it declares another number of elements than its space has.
    """
    space: spaces.Box = getattr(skill, f"{which}_space")
    size = int(space.shape[0])
    declared: Sequence[Part] = getattr(skill, f"{which}_layout", ())
    if not declared:
        return (Part(which, tuple(map(str, range(size))), ""),)
    if which == "observation" and (rows := getattr(skill, "recall", 0)):
        past = [
            replace(part, name=f"{part.name}_past_{rows - i}")
            for i in range(rows)
            for part in declared
        ]
        declared = [*past, *declared]
    count = sum(len(part.elements) for part in declared)
    if count != size:
        raise ValueError(
            f"skill {skill.name!r} declares {count} elements of its {which}, which has {size}"
        )
    return tuple(declared)
