"""Worlds on a GPU: `mujoco_warp`, whose steps are one captured graph over n copies."""

import copy
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Timer
from typing import Any

import mujoco
import mujoco_warp as mjw
import numpy as np
import torch
import warp as wp
from torch import Tensor

from clrl.envs.divergence import TakenBack
from clrl.envs.warp_rewind import Rewind
from clrl.envs.warp_static import StaticGeoms
from clrl.envs.world import CONTACTS, CapacityError, World

wp.config.log_level = wp.LOG_WARNING  # modules loaded would be told on stdout

# What mjSTATE_INTEGRATION holds, in its order, so that states of both engines look alike.
_STATE = (
    *("time", "qpos", "qvel", "act", "history", "qacc_warmstart", "ctrl", "qfrc_applied"),
    *("xfrc_applied", "eq_active", "mocap_pos", "mocap_quat", "userdata"),
)
# What `mj_setConst` derives from masses, inertias and armatures.
_DERIVED = (
    *("body_subtreemass", "body_invweight0", "dof_invweight0"),
    *("tendon_invweight0", "actuator_acc0"),
)
_OVERFLOW = (
    mjw.OverflowType.NEFC
    | mjw.OverflowType.NJMAX_NNZ
    | mjw.OverflowType.BROADPHASE
    | mjw.OverflowType.NARROWPHASE
    | mjw.OverflowType.CCD
)  # what more room would cure; the others are limits that MuJoCo's own solver has too
_PATIENCE = 3.0  # seconds after which a first step must be compiling


class WarpWorld(World):
    """A `World` on `mujoco_warp`; its tensors are float32 and share memory with Warp's arrays.

    Reading or writing a field costs no copy, and no call waits for the device, but `check`, the
    `reset` that begins with it, `taken_back`, and the first of each kind, which compiles and
    captures. A step that diverges is taken back on the device, see `Rewind`.
    `forward` refreshes all copies whatever the mask: at an unchanged state it changes nothing.

    On a GPU two runs may differ in the last bits, because sums are taken in any order; with
    `deterministic` they do not. On Warp's CPU device, which serves tests, they never do.
    """

    dtype = torch.float32

    def __init__(
        self,
        model: mujoco.MjModel,
        n: int,
        device: str = "cuda",
        *,
        contacts: int = CONTACTS,
        deterministic: bool = False,
    ) -> None:
        """Allocate n copies.

        Args:
            model: The compiled model.
            n: Number of copies.
            device: "cuda", "cuda:1", ..., or "cpu" for Warp's CPU device.
            contacts: Room for contacts per copy; all copies share it.
            deterministic: Order every sum, so that runs repeat bit for bit.

        Raises:
            ValueError: there is no such device, or mujoco_warp does not support the model.
        """
        super().__init__()
        self.model, self.n = model, n
        self._capacity = (contacts, _rows(model, contacts))
        self.device, self._warp = _find_device(device)
        with wp.ScopedDevice(self._warp):
            self._model, self._data = _allocate(model, n, *self._capacity)
        self._model.opt.warn_overflow = 0  # `check` reports
        if deterministic:
            self._model.opt.deterministic = mjw.DeterminismType.ALL
        if self._warp.is_cuda and not wp.is_conditional_graph_supported():
            self._model.opt.graph_conditional = False
        self._static = StaticGeoms(model, self._warp)
        self._fields: dict[str, Tensor] = {}
        self._parameters: dict[str, Tensor] = {}
        self._graphs: dict[int, wp.Graph] = {}
        self._streams: dict[int, wp.Stream] = {}
        self._overflow = _tensor(self._data.overflow)
        self._start = _start(model).to(self.device)
        with wp.ScopedDevice(self._warp):
            self._rewind = Rewind(self._data, self._parts(), self._start)
        self.diverged, self.fresh = self._rewind.diverged, self._rewind.fresh
        self.reset()
        self.forward()

    def field(self, name: str) -> Tensor:
        """See `World.field`."""
        if name not in self._fields:
            array = getattr(self._data, name, None)
            if not isinstance(array, wp.array) or array.shape[0] != self.n:
                raise ValueError(f"mujoco_warp has no field {name!r} with a value per copy")
            tensor = _tensor(array)
            # A matrix is 3 x 3 there and a row of 9 in MuJoCo.
            self._fields[name] = tensor.flatten(2) if tensor.dim() == 4 else tensor
        return self._fields[name]

    def parameter(self, name: str) -> Tensor:
        """See `World.parameter`; the first call for a name makes the next step be captured anew.

        Raises:
            ValueError: mujoco_warp takes no value per copy.
        """
        if name not in self._parameters:
            shared = getattr(self._model, name, None)
            if not isinstance(shared, wp.array) or shared.shape[0] != 1 or name == "geom_quat":
                raise ValueError(f"mujoco_warp has no parameter {name!r} with a value per copy")
            with wp.ScopedDevice(self._warp):
                array = wp.array(np.repeat(shared.numpy(), self.n, axis=0), dtype=shared.dtype)
            setattr(self._model, name, array)
            self._parameters[name] = _tensor(array)
            self._graphs.clear()
        return self._parameters[name]

    def refresh_constants(self) -> None:
        """See `World.refresh_constants`."""
        for name in _DERIVED:
            self.parameter(name)
        with self._in_order():
            mjw.set_const(self._model, self._data)
            self._synchronize()  # before what it allocated goes

    def step(self, substeps: int, mask: Tensor | None = None) -> None:
        """See `World.step`; under a mask all copies move and the others are put back."""
        if mask is not None:
            self._rewind.held.copy_(~mask)
        self._run(substeps)
        if mask is not None:
            self._rewind.held.zero_()

    def reset(self, mask: Tensor | None = None) -> None:
        """See `World.reset`; raises as `check` does, for what came before."""
        self.check()
        self._memo.clear()
        self._write(self._start, mask)

    def forward(self, mask: Tensor | None = None) -> None:
        """See `World.forward`."""
        self._run(0)

    def check(self) -> None:
        """See `World.check`; waits for the device.

        Raises:
            CapacityError: copies had more contacts or constraints than there is room for.
        """
        over = (self._overflow & int(_OVERFLOW)) != 0
        self._overflow.zero_()
        if count := int(over.sum()):
            contacts, rows = self._capacity
            raise CapacityError(
                f"{count} of {self.n} worlds had no room for their contacts, so that their physics "
                f"is wrong: {contacts} contacts and {rows} constraint rows a world are not enough; "
                "raise `contacts` of the skill"
            )

    def taken_back(self) -> TakenBack | None:
        """See `World.taken_back`; states have the parameters of now, which resets alone write."""
        taken = self._rewind.take()
        if taken is None or not self._parameters:
            return taken
        rows = taken.worlds.to(self.device)
        own = (self._parameters[name] for name in sorted(self._parameters))
        values = [part[rows].flatten(1).double().cpu() for part in own]
        return replace(taken, states=torch.cat([taken.states, *values], dim=1))

    def state(self) -> Tensor:
        """See `World.state`; float32 values, exact in float64."""
        return torch.cat([p.reshape(self.n, -1).double() for p in self._parts()], dim=1)

    def load_state(self, state: Tensor) -> None:
        """See `World.load_state`."""
        shape = (self.n, sum(part[0].numel() for part in self._parts()))
        if state.shape != shape:
            raise ValueError(f"the world's state has shape {shape}, got {tuple(state.shape)}")
        self._write(state.to(self.device))
        self.forward()

    def snapshot(self, index: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """See `World.snapshot`."""
        model = copy.copy(self.model)
        for name, values in self._parameters.items():
            getattr(model, name).flat = values[index].cpu().numpy().ravel()
        data = mujoco.MjData(model)
        size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
        row = self.state()[index, :size].cpu().numpy()
        mujoco.mj_setState(model, data, row, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, data)
        return model, data

    def _parts(self) -> list[Tensor]:
        """What a state holds, each (n, ...) and live."""
        fields = [self.field(name) for name in _STATE]
        own = [self._parameters[name] for name in sorted(self._parameters)]
        return [part for part in (*fields, *own) if part.numel()]

    def _write(self, state: Tensor, mask: Tensor | None = None) -> None:
        """Put rows of a state, or one row for all, into masked copies; no waiting."""
        start = 0
        for part in self._parts():
            stop = start + part[0].numel()
            if stop > state.shape[1]:  # a start says nothing of the parameters, which stay
                return
            new = state[:, start:stop].reshape(-1, *part.shape[1:]).to(part.dtype)
            start = stop
            if mask is not None:
                chosen = mask.to(self.device).view(-1, *[1] * (part.dim() - 1))
                new = torch.where(chosen, new, part)
            part.copy_(new.expand_as(part))

    def _run(self, substeps: int) -> None:
        """Launch the graph of so many substeps; of none, which only refreshes derived fields."""
        self._memo.clear()
        if substeps not in self._graphs:
            self._graphs[substeps] = self._captured(lambda: self._advance(substeps))
        with self._in_order() as stream:
            wp.capture_launch(self._graphs[substeps], stream=stream)

    def _advance(self, substeps: int) -> None:
        if self._parameters:
            self._static.place(self._model, self._data)
        if substeps:
            self._rewind.keep()
        for _ in range(substeps):
            mjw.step(self._model, self._data)
            self._rewind.look()
        if substeps:
            self._rewind.close()
        # `mj_step` leaves derived fields one step behind. `mj_step2` after `mj_step1` would save
        # these stages, but miss what was written to mocap bodies in between.
        mjw.step1(self._model, self._data)

    def _captured(self, body: Callable[[], None]) -> wp.Graph:
        """Run a body once, which compiles it; record it, then take back what it did."""
        kept = self.state()
        memory = [(tensor, tensor.clone()) for tensor in (self._overflow, *self._rewind.memory)]
        with wp.ScopedDevice(self._warp), _no_garbage(), _announced():
            self._synchronize()
            body()
            self._synchronize()
            with wp.ScopedCapture() as capture:
                body()
        for tensor, value in memory:
            tensor.copy_(value)
        self._write(kept)
        return capture.graph

    def _synchronize(self) -> None:
        if self._warp.is_cuda:
            torch.cuda.synchronize(self.device)

    @contextmanager
    def _in_order(self) -> Iterator[wp.Stream | None]:
        """Warp's work in the order of torch's; gives the stream, None on a CPU."""
        if not self._warp.is_cuda:
            with wp.ScopedDevice(self._warp):
                yield None
            return
        current = torch.cuda.current_stream(self.device)
        if current.cuda_stream not in self._streams:
            self._streams[current.cuda_stream] = wp.stream_from_torch(current)
        with wp.ScopedStream(self._streams[current.cuda_stream], sync_enter=False) as stream:
            yield stream


def _find_device(name: str) -> tuple[torch.device, Any]:
    """A device as torch and as Warp know it; torch's with its number, which Warp asks for."""
    wp.init()
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        return device, wp.device_from_torch(device)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"mujoco_warp finds no device {name!r}: {error}") from None


def _allocate(
    model: mujoco.MjModel, n: int, contacts: int, rows: int
) -> tuple[mjw.Model, mjw.Data]:
    try:
        return mjw.put_model(model), mjw.make_data(model, nworld=n, nconmax=contacts, njmax=rows)
    except NotImplementedError as error:
        raise ValueError(f"mujoco_warp does not support this model: {error}") from None


def _rows(model: mujoco.MjModel, contacts: int) -> int:
    """Most constraint rows a copy with so many contacts can have."""
    dim = int(max(model.geom_condim, default=1))
    pyramid = model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    per_contact = max(1, 2 * (dim - 1)) if pyramid else dim
    equality = 6 * model.neq
    limits = 2 * (int(model.jnt_limited.sum()) + int(model.tendon_limited.sum()))
    return int(contacts * per_contact + equality + limits + model.nv + model.ntendon)


def _start(model: mujoco.MjModel) -> Tensor:
    """Keyframe 0, or the defaults where there is none, as one row of a state."""
    data = mujoco.MjData(model)
    if model.nkey:
        mujoco.mj_resetDataKeyframe(model, data, 0)
    signature = mujoco.mjtState.mjSTATE_INTEGRATION
    row = np.empty(mujoco.mj_stateSize(model, signature))
    mujoco.mj_getState(model, data, row, signature)
    return torch.from_numpy(row)[None]


def _tensor(array: Any) -> Tensor:
    with torch.inference_mode(mode=False):  # writable outside of it too
        tensor: Tensor = wp.to_torch(array, requires_grad=False)
    return tensor


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Collecting garbage could free device memory, which a capture forbids."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _announced() -> Iterator[None]:
    """Tell on stderr that kernels are being compiled, where they were not in the cache."""
    text = "clrl: compiling the physics for this model; takes up to two minutes, once per machine"
    timer = Timer(_PATIENCE, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
