"""Meta-World's models of the Sawyer, and the state in which episodes start."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco

if TYPE_CHECKING:
    from clrl.envs.sawyer import SawyerSkill

METAWORLD = "3.0.0"  # whose assets these skills run on
_INSTALL = f"install them with `pip install metaworld=={METAWORLD}`"
_UPRIGHT = (1.0, 0.0, 1.0, 0.0)  # of the mocap body
_SETTLE = 50  # control steps in which the arm comes to its start
# What an episode remembers, in MjData.userdata: whether it has stepped, the frame before this
# one, the target and where the object started.
BEFORE, TARGET, START = slice(1, 19), slice(19, 22), slice(22, 25)
MEMORY = 25


@dataclass(frozen=True)
class Settled:
    """Where episodes of a skill start.

    Attributes:
        model: The scene; its keyframe 0 is the state below.
        data: The arm at rest, derived fields up to date.
        tcp: Middle of the fingertips, m, one physics step before: Meta-World reads it
            before it refreshes positions, and measures rewards from there.
        rest: Height of the free puck's origin and of its mesh, likewise; zeros without a puck.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    tcp: tuple[float, ...]
    rest: tuple[float, float]


@cache
def assets() -> Path:
    """Folder of Meta-World's models.

    Raises:
        ValueError: Meta-World is missing, of another version, or without its models.
    """
    try:
        found = version("metaworld")
    except PackageNotFoundError:
        raise ValueError(f"the cw skills need Meta-World's models; {_INSTALL}") from None
    if found != METAWORLD:
        raise ValueError(f"the cw skills need metaworld {METAWORLD}, not {found}; {_INSTALL}")
    spec = find_spec("metaworld")
    folder = Path(spec.origin or "").parent / "assets" / "sawyer_xyz" if spec else Path("missing")
    if not folder.is_dir():
        raise ValueError(f"Meta-World's models are missing at {folder}; {_INSTALL}")
    return folder


@cache
def settle(kind: "type[SawyerSkill]") -> Settled:
    """Let the arm come to rest as Meta-World's own reset does, once for all episodes."""
    path = assets() / kind.scene
    if not path.is_file():
        raise ValueError(f"Meta-World's model {path} is missing; {_INSTALL}")
    spec = mujoco.MjSpec.from_file(str(path))
    spec.nuserdata = MEMORY
    spec.add_key(name="settled")
    _fuse(spec, {kind.fixture, kind.landmark})
    model = spec.compile()
    # Meta-World welds hand and mocap body in place, with five times the default torque.
    model.eq_data[:, :11] = (*[0.0] * 6, -1.0, 0.0, 0.0, 0.0, 5.0)
    data = mujoco.MjData(model)
    if kind.fixture:
        low, high = kind.ranges[0][-3:], kind.ranges[1][-3:]
        model.body(kind.fixture).pos = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    for _ in range(_SETTLE):
        data.mocap_pos[0], data.mocap_quat[0] = kind.hand_start, _UPRIGHT
        data.ctrl[:] = (-1.0, 1.0)
        mujoco.mj_step(model, data, kind.substeps)
    right, left = (data.site(f"{side}EndEffector").xpos for side in ("right", "left"))
    tcp = tuple(map(float, (right + left) / 2))
    rest = (0.0, 0.0)
    if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "obj") >= 0:
        rest = float(data.body("obj").xpos[2]), float(data.geom("objGeom").xpos[2])
    kind.arrange(data)
    mujoco.mj_forward(model, data)
    for field in ("qpos", "qvel", "ctrl"):
        getattr(model, f"key_{field}")[0] = getattr(data, field)
    model.key_mpos[0], model.key_mquat[0] = data.mocap_pos.ravel(), data.mocap_quat.ravel()
    return Settled(model, data, tcp, rest)


def _fuse(spec: mujoco.MjSpec, kept: set[str]) -> None:
    """Make bodies without a joint one with what carries them: the same motion, an eighth faster.

    Links that touch something keep theirs, since how stiff a contact is follows from the masses of
    the two bodies. So do the bodies in `kept`, with all their parts: as one body a fixture's geoms
    would be near everything, and each be tested for contact.
    """
    spec.compiler.fusestatic = True
    for body in spec.bodies:
        parts = _parts(body)
        touch = any(geom.contype or geom.conaffinity for part in parts for geom in part.geoms)
        if body.name in kept or (body.joints and touch):
            for part in parts:
                part.fuse = 0


def _parts(body: mujoco.MjsBody) -> list[mujoco.MjsBody]:
    """A body and those that are fixed to it."""
    fixed = (part for part in body.bodies if not part.joints)
    return [body, *(inner for part in fixed for inner in _parts(part))]
