"""n copies of one MuJoCo model behind one interface, whichever engine runs them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import mujoco
import torch
from torch import Tensor

from clrl.envs.divergence import TakenBack

T = TypeVar("T")
CONTACTS = 64  # room per copy on engines that allocate contacts beforehand


class CapacityError(RuntimeError):
    """An engine had no room for what happened in its worlds, whose physics is wrong since."""


def gpu_trouble() -> str:
    """What keeps worlds from a GPU and how to mend it, "" if nothing does."""
    if find_spec("mujoco_warp") is None:
        return "mujoco_warp is missing: `pip install 'clrl[gpu]'`"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device: it takes an NVIDIA driver and a CUDA build of torch"
    return ""


class World(ABC):
    """n copies of one model; fields are tensors of shape (n, ...) on the world's device.

    State fields (`qpos`, `qvel`, `ctrl`, `mocap_pos`, `mocap_quat`, ...) are live: what is written
    to them is the state at the next call. Derived fields (`sensordata`, `xpos`, ...) are refreshed
    by `step`, `reset` and `forward`, always at the new state, and are read only.

    Attributes:
        model: The compiled model all copies share.
        n: Number of copies.
        device: Where the fields live.
        dtype: Of their numbers: float64 on the CPU, float32 on a GPU.
        diverged: Copies whose latest step was taken back, (n,), bool, or None where there are
            none: MuJoCo warned of them, or their state left its bounds. They stand where they
            stood before. Reading it waits for the device, if the worlds are on one.
        fresh: Those of them of which `taken_back` will tell the latest step, (n,), bool; None on
            the CPU, where nothing waits.
        before: The state of every copy before the latest step, where `diverged` says some; on
            the CPU alone.
    """

    model: mujoco.MjModel
    n: int
    device: torch.device
    dtype: torch.dtype
    diverged: Tensor | None = None
    fresh: Tensor | None = None
    before: Tensor

    def __init__(self) -> None:
        self._sensors: dict[str, Tensor] = {}
        self._indices: dict[tuple[str, str], int] = {}
        self._named: dict[tuple[str, str], Tensor] = {}
        self._memo: dict[str, Any] = {}

    @abstractmethod
    def field(self, name: str) -> Tensor:
        """An MjData field by its MuJoCo name, shape (n, ...), live."""

    @abstractmethod
    def parameter(self, name: str) -> Tensor:
        """An MjModel field with a value per copy (`body_mass`, `geom_friction`, `dof_damping`...).

        Shape (n, ...), live. Call `refresh_constants` after writing one that other constants
        (inverse weights, subtree masses) are derived from.
        """

    @abstractmethod
    def refresh_constants(self) -> None:
        """Recompute what MuJoCo derives from the per-copy parameters (`mj_setConst`)."""

    @abstractmethod
    def step(self, substeps: int, mask: Tensor | None = None) -> None:
        """Advance by `substeps` physics steps the copies where `mask` (n,) is true, or all."""

    @abstractmethod
    def reset(self, mask: Tensor | None = None) -> None:
        """Put masked copies into keyframe 0, or the model's defaults where it has none.

        Derived fields are stale until the next `forward` or `step`.
        """

    @abstractmethod
    def forward(self, mask: Tensor | None = None) -> None:
        """Refresh the derived fields of masked copies at their present state."""

    @abstractmethod
    def check(self) -> None:
        """Raise where the engine lacked room for contacts since the last check, as `reset` does.

        Raises:
            CapacityError: in some copies; never on engines that allocate as they go.
        """

    def taken_back(self) -> TakenBack | None:
        """Steps taken back since the last call, if there were any; waits for the device.

        None on the CPU, where `diverged` told of them.
        """
        return None

    @abstractmethod
    def state(self) -> Tensor:
        """A copy of everything the dynamics depend on, shape (n, state), float64.

        It is `mjSTATE_INTEGRATION`, the only state from which MuJoCo continues bit for bit, and
        the parameters that have a value per copy so far.
        """

    @abstractmethod
    def load_state(self, state: Tensor) -> None:
        """Continue from a tensor that `state` returned; derived fields follow.

        The same parameters must have a value per copy as had then.
        """

    @abstractmethod
    def snapshot(self, index: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """One copy as plain MuJoCo objects, to render it or to pass it to any function."""

    def sensor(self, name: str) -> Tensor:
        """One named sensor, shape (n, dim), a live slice of `sensordata`."""
        if name not in self._sensors:
            sensor = self.model.sensor(name)
            start = int(sensor.adr[0])
            self._sensors[name] = self.field("sensordata")[:, start : start + int(sensor.dim[0])]
        return self._sensors[name]

    def named(self, field: str, name: str) -> Tensor:
        """What a body, site or geom has in a field such as `xpos` or `site_xpos`, (n, ...), live.

        The field's prefix says which kind is meant; without one it is a body.
        """
        if (field, name) not in self._named:
            prefix = field.partition("_")[0]
            kind = prefix if prefix in ("site", "geom") else "body"
            self._named[field, name] = self.field(field)[:, getattr(self.model, kind)(name).id]
        return self._named[field, name]

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """What `compute` gives, computed once until the copies move or are refreshed.

        For quantities that reward, success and observation share. What they depend on must change
        through `step`, `reset`, `forward` or `load_state` alone.
        """
        if name not in self._memo:
            self._memo[name] = compute()
        found: T = self._memo[name]
        return found

    def joint(self, name: str) -> int:
        """Index in `qpos` of a joint's first coordinate."""
        return self._index("joint", name, "qposadr")

    def mocap(self, body: str) -> int:
        """Index in `mocap_pos` and `mocap_quat` of a mocap body."""
        return self._index("body", body, "mocapid")

    def _index(self, kind: str, name: str, attribute: str) -> int:
        key = (kind, name)
        if key not in self._indices:  # looking a name up takes as long as a tensor operation
            self._indices[key] = int(getattr(getattr(self.model, kind)(name), attribute)[0])
        return self._indices[key]


def make_world(
    model: mujoco.MjModel,
    n: int,
    device: str = "cpu",
    threads: int = 0,
    contacts: int = CONTACTS,
    poses_only: bool = False,
) -> World:
    """Build the world of n copies on the engine that serves `device`.

    Args:
        model: The compiled model.
        n: Number of copies, >= 1.
        device: "cpu" runs on `mujoco.batch`; "cuda", or "cuda:1", on `mujoco_warp`, and "warp:cpu"
            on its CPU device, where the same kernels run slowly and can be tested.
        threads: CPU threads of the engine, 0 for all cores. Results do not depend on it.
        contacts: Room for contacts per copy, where an engine allocates it beforehand.
        poses_only: Whether poses are the only derived fields that must be of the present state;
            an engine may keep others so too.

    Raises:
        ValueError: n < 1, threads < 0, no engine serves the device, or it is missing.
    """
    if n < 1:
        raise ValueError(f"a world needs n >= 1 copies, got {n}")
    if threads < 0:
        raise ValueError(f"threads must be >= 0, got {threads}")
    if device == "cpu":
        from clrl.envs.cpu_world import CpuWorld

        return CpuWorld(model, n, threads, poses_only)
    where = device.removeprefix("warp:")
    kind = where.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"no physics engine for device {device!r}; use cpu or cuda")
    if (trouble := gpu_trouble()) and (kind == "cuda" or "mujoco_warp" in trouble):
        raise ValueError(f"no worlds on device {device!r}: {trouble}")
    from clrl.envs.warp_world import WarpWorld

    return WarpWorld(model, n, where, contacts=contacts)
