"""Physics that diverges on mujoco_warp, taken back on the device while the host goes on."""
# mypy: disable-error-code="untyped-decorator, no-any-return"

from typing import Any

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor

from clrl.envs.divergence import TakenBack

# What a physics step changes: the first fields of a state, in its order, and flags of what there
# was no room for, since a step that is taken back lacked none.
_CHANGED = ("time", "qpos", "qvel", "act", "history", "qacc_warmstart", "overflow")
_LARGEST = wp.constant(float(mujoco.mjMAXVAL))


@wp.struct
class _Moving:
    time: wp.array[float]
    qpos: wp.array2d[float]
    qvel: wp.array2d[float]
    act: wp.array2d[float]
    history: wp.array2d[float]
    qacc_warmstart: wp.array2d[float]
    overflow: wp.array[int]


class Rewind:
    """Keeps what a control step changes, and puts copies back whose physics diverges.

    A copy diverges where positions, velocities, activations or accelerations leave MuJoCo's bounds
    or a control is not finite, as MuJoCo itself looks before it starts a copy anew; accelerations
    also without constraints, for where forces overflow float32 the solver gives those of the step
    before. It is looked for after every substep, and put back at once, so that the others keep the
    room for contacts that all share. `keep`, `look` and `close` launch kernels, to be captured with
    the substeps; `take` waits for the device.

    Attributes:
        diverged: Copies whose latest control step was taken back, (n,), bool.
        fresh: Those of them of which `take` will tell the latest step, (n,), bool.
        held: Copies to put back whatever happens, which are not counted, (n,), bool.
        memory: What lasts from one step to the next, tensors (n, ...).
    """

    def __init__(self, data: mjw.Data, parts: list[Tensor], start: Tensor) -> None:
        """Allocate.

        Args:
            data: Of all copies.
            parts: What a state holds but for parameters, each (n, ...) and live.
            start: A state for copies that were not even sound before, (1, state). They take what
                moves of it; goals and the like stay, since the episode goes on.
        """
        self._data, self._live, self._kept = data, _Moving(), _Moving()
        for name in _CHANGED:
            live = getattr(data, name)
            setattr(self._live, name, live)
            setattr(self._kept, name, wp.clone(live))
        n, device = data.nworld, start.device
        self._parts = [part.view(n, -1) for part in parts]
        with torch.inference_mode(mode=False):  # writable outside of it too
            self.held, self._bad, self._lost, self.diverged, self.fresh = (
                torch.zeros(n, dtype=torch.bool, device=device) for _ in range(5)
            )
            self._count, self._ago = (
                torch.zeros(n, dtype=torch.int32, device=device) for _ in range(2)
            )
            self._first = torch.zeros(n, start.shape[1], device=device)
            moving = sum(getattr(data, name).size // n for name in _CHANGED[:-1])
            self._start = start[0, :moving].float()
        self.memory = (self._count, self._ago, self._first)

    def keep(self) -> None:
        """Begin a control step."""
        for name in _CHANGED:
            wp.copy(getattr(self._kept, name), getattr(self._live, name))
        wp.copy(wp.from_torch(self._bad), wp.from_torch(self.held))

    def look(self) -> None:
        """Put copies back that diverged in the latest substep or in one before."""
        inputs = [self._data.ctrl, self._data.qacc, self._data.qacc_smooth, self._kept]
        outputs = [self._live, wp.from_torch(self._bad)]
        wp.launch(_look, dim=len(self._bad), inputs=inputs, outputs=outputs)

    def close(self) -> None:
        """End a control step: count, and remember where a copy's first divergence began."""
        flags = [wp.from_torch(t) for t in (self._bad, self.held)]
        own = (self._count, self._ago, self.diverged, self.fresh, self._lost)
        outputs = [wp.from_torch(t) for t in own]
        wp.launch(_count, dim=len(self._bad), inputs=[self._kept, *flags], outputs=outputs)
        flags = [wp.from_torch(t) for t in (self.fresh, self._lost, self._start)]
        offset, first = 0, wp.from_torch(self._first)
        for part in self._parts:
            array = wp.from_torch(part)
            wp.launch(_note, dim=part.shape, inputs=[*flags, offset], outputs=[first, array])
            offset += part.shape[1]

    def take(self) -> TakenBack | None:
        """What happened since the last call, but for parameters in the states; and forget it."""
        counts = self._count.cpu()
        if not counts.any():
            return None
        worlds = counts.nonzero()[:, 0]
        rows = worlds.to(self._first.device)
        taken = TakenBack(
            worlds, counts[worlds].long(), self._ago[rows].cpu(), self._first[rows].double().cpu()
        )
        self._count.zero_()
        return taken


@wp.func
def _sound(values: wp.array2d[float], copy: int) -> bool:
    """Whether a row is within bounds; a comparison with NaN is false."""
    for i in range(values.shape[1]):  # noqa: SIM110 - Warp has no all()
        if not (wp.abs(values[copy, i]) < _LARGEST):
            return False
    return True


@wp.func
def _all_sound(moving: _Moving, copy: int) -> bool:
    sound = _sound(moving.qpos, copy) and _sound(moving.qvel, copy)
    return sound and _sound(moving.act, copy)


@wp.func
def _put(source: wp.array2d[float], target: wp.array2d[float], copy: int) -> None:
    for i in range(source.shape[1]):
        target[copy, i] = source[copy, i]


@wp.kernel
def _look(
    ctrl: wp.array2d[float],
    qacc: wp.array2d[float],
    qacc_smooth: wp.array2d[float],
    kept: _Moving,
    live: _Moving,
    bad: wp.array[bool],
) -> None:
    copy = wp.tid()
    diverged = bad[copy] or not (_all_sound(live, copy) and _sound(qacc, copy))
    if not _sound(qacc_smooth, copy):
        diverged = True
    for i in range(ctrl.shape[1]):
        if not wp.isfinite(ctrl[copy, i]):  # a clamp would hide it
            diverged = True
    if diverged:
        bad[copy] = True
        live.time[copy] = kept.time[copy]
        live.overflow[copy] = kept.overflow[copy]
        _put(kept.qpos, live.qpos, copy)
        _put(kept.qvel, live.qvel, copy)
        _put(kept.act, live.act, copy)
        _put(kept.history, live.history, copy)
        _put(kept.qacc_warmstart, live.qacc_warmstart, copy)


@wp.kernel
def _count(
    kept: _Moving,
    bad: wp.array[bool],
    held: wp.array[bool],
    count: wp.array[int],
    ago: wp.array[int],
    diverged: wp.array[bool],
    fresh: wp.array[bool],
    lost: wp.array[bool],
) -> None:
    copy = wp.tid()
    taken = bad[copy] and not held[copy]
    diverged[copy] = taken
    fresh[copy] = taken and count[copy] == 0
    lost[copy] = taken and not _all_sound(kept, copy)
    ago[copy] += 1
    if fresh[copy]:
        ago[copy] = 0
    if taken:
        count[copy] += 1


@wp.kernel
def _note(
    fresh: wp.array[bool],
    lost: wp.array[bool],
    start: wp.array[float],
    offset: int,
    first: wp.array2d[float],
    part: wp.array2d[Any],
) -> None:
    copy, i = wp.tid()
    if fresh[copy]:
        first[copy, offset + i] = float(part[copy, i])
    if lost[copy] and offset + i < start.shape[0]:
        part[copy, i] = part.dtype(start[offset + i])
