"""Worlds on the CPU: `mujoco.batch`, a thread pool over n copies, bit-identical at any width."""

import logging
import warnings

import mujoco
import numpy as np
import torch
from mujoco import batch
from numpy.typing import NDArray
from torch import Tensor

from clrl.envs.world import World

# Derived fields are computed at the new state, as mj_step1 does; a persistent batch continues its
# next step from there, so that being current costs nothing.
_CURRENT = int(mujoco.mjtStage.mjSTAGE_VEL.value)
_NONE = int(mujoco.mjtStage.mjSTAGE_NONE.value)
_POSITION = int(mujoco.mjtStage.mjSTAGE_POS.value)
# Without these, what depends on positions is little more than poses.
_NO_CONTACTS = int(mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)

_LOG = logging.getLogger(__name__)
if mujoco.get_mju_user_warning() is None:  # it would write MUJOCO_LOG.TXT wherever one is
    mujoco.set_mju_user_warning(_LOG.debug)


class CpuWorld(World):
    """A `World` on `mujoco.batch.Batch`; its tensors are float64 views of the batch's memory."""

    dtype = torch.float64

    def __init__(
        self, model: mujoco.MjModel, n: int, threads: int = 0, poses_only: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.n = n
        self.device = torch.device("cpu")
        self._batch = batch.Batch(model, n, threads, persistent=True)
        self._keyframe = 0 if model.nkey else -1
        self._disabled = self._batch.expand("opt.disableflags") if poses_only else None
        self._fields: dict[str, Tensor] = {}
        self._parameters: dict[str, Tensor] = {}
        self._state = torch.from_numpy(self._batch.state)
        self._rows = torch.zeros_like(self._state)  # before the latest step
        self._warnings = torch.from_numpy(self._batch.warning)  # (n, kinds, info and count)
        self._moving = self._state[:, 1 : 1 + model.nq + model.nv]  # positions and velocities
        self.field("sensordata")  # bound before the first call, so that it is never stale
        self._restart(None)
        self._start = self._state[:1].clone()
        self.forward()

    def field(self, name: str) -> Tensor:
        """See `World.field`."""
        if name not in self._fields:
            self._fields[name] = _view(self._batch.bind(name))
        return self._fields[name]

    def parameter(self, name: str) -> Tensor:
        """See `World.parameter`."""
        if name not in self._parameters:
            self._parameters[name] = _view(self._batch.expand(name))
        return self._parameters[name]

    def refresh_constants(self) -> None:
        """See `World.refresh_constants`."""
        self._batch.set_const()

    def step(self, substeps: int, mask: Tensor | None = None) -> None:
        """See `World.step`."""
        self._memo.clear()
        self._rows.copy_(self._state)
        failed: list[int] = []
        try:
            if self._disabled is None:
                self._batch.step(_ids(mask), nstep=substeps, stage=_CURRENT)
            else:  # what moves the robot changes poses, so that no stage would serve the next step
                self._batch.step(_ids(mask), nstep=substeps, stage=_NONE)
                self._derive(mask)
        except batch.SimulationError as error:
            failed = list(error.ids)
        # MuJoCo looks before each substep, and starts a bad copy anew without a word.
        largest = float(self._moving.abs().max()) if self._moving.numel() else 0.0
        if largest < mujoco.mjMAXVAL and not failed and not self._batch.warning.any():
            self.diverged = None
            return
        sound = self._sound() & (self._warnings[..., 1].sum(1) == 0)
        sound[failed] = False
        self.diverged = self._take_back(~sound)

    def _take_back(self, diverged: Tensor) -> Tensor:
        self.before = torch.cat([self._rows, *(p.flatten(1) for p in self._parts()[1:])], dim=1)
        self._state[diverged] = self._rows[diverged]
        if not (sound := self._sound()).all():  # somebody wrote what cannot be
            self._restart(~sound)
        self._derive(diverged if self._disabled is None else None)
        self._warnings.zero_()
        return diverged

    def _sound(self) -> Tensor:
        """Copies within MuJoCo's own bound; a comparison with NaN is false."""
        sound: Tensor = (self._moving.abs() < mujoco.mjMAXVAL).all(1)
        return sound

    def reset(self, mask: Tensor | None = None) -> None:
        """See `World.reset`; the state is all that a copy's future depends on."""
        self._memo.clear()
        if mask is None:
            self._state.copy_(self._start)
        else:
            self._state[mask] = self._start

    def _restart(self, mask: Tensor | None) -> None:
        """`reset` by MuJoCo's own way, which takes it seven times as long."""
        self._batch.reset(_ids(mask), keyframe=self._keyframe, stage=_NONE)

    def forward(self, mask: Tensor | None = None) -> None:
        """See `World.forward`."""
        self._memo.clear()
        self._derive(mask)

    def _derive(self, mask: Tensor | None) -> None:
        if self._disabled is None:
            self._batch.forward(_ids(mask), stage=_CURRENT)
            return
        usual = self._disabled.copy()
        self._disabled |= _NO_CONTACTS
        try:
            self._batch.forward(_ids(mask), stage=_POSITION)
        finally:
            self._disabled[:] = usual

    def check(self) -> None:
        """See `World.check`; this engine allocates as it goes."""

    def state(self) -> Tensor:
        """See `World.state`."""
        return torch.cat([part.flatten(1) for part in self._parts()], dim=1)

    def load_state(self, state: Tensor) -> None:
        """See `World.load_state`."""
        parts = self._parts()
        shape = (self.n, sum(part[0].numel() for part in parts))
        if state.shape != shape:
            raise ValueError(f"the world's state has shape {shape}, got {tuple(state.shape)}")
        start = 0
        for part in parts:
            part[:] = state[:, start : start + part[0].numel()].view_as(part)
            start += part[0].numel()
        self.forward()

    def _parts(self) -> list[Tensor]:
        parameters = [self._parameters[name] for name in sorted(self._parameters)]
        return [self._state, *parameters]

    def snapshot(self, index: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """See `World.snapshot`."""
        model, data = self._batch.get_model(index), self._batch.get_data(index)
        mujoco.mj_forward(model, data)
        return model, data


def _ids(mask: Tensor | None) -> NDArray[np.bool_] | None:
    return None if mask is None else mask.numpy()


def _view(array: NDArray[np.generic]) -> Tensor:
    # Made while gradients are off in `Episodes`, a view must stay writable elsewhere.
    with torch.inference_mode(mode=False), warnings.catch_warnings():
        # Outputs are marked read only; torch has no such mark and warns.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
