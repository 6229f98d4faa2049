"""Meta-World's models of the Sawyer, and the state in which episodes start."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco

if TYPE_CHECKING:
    from clrl.envs.sawyer import SawyerSkill

METAWORLD = "3.0.0"  # whose assets these skills run on
_INSTALL = f'install it with `pip install "clrl[metaworld]"` (metaworld=={METAWORLD})'
_UPRIGHT = (1.0, 0.0, 1.0, 0.0)  # of the mocap body
_SETTLE = 50  # control steps in which the arm comes to its start
# What an episode remembers, in MjData.userdata: whether it has stepped, the frame before this
# one, the target and where the object started.
BEFORE, TARGET, START = slice(1, 19), slice(19, 22), slice(22, 25)
MEMORY = 25


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
def settle(kind: "type[SawyerSkill]") -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Let the arm come to rest as Meta-World's own reset does, once for all episodes."""
    path = assets() / kind.scene
    if not path.is_file():
        raise ValueError(f"Meta-World's model {path} is missing; {_INSTALL}")
    spec = mujoco.MjSpec.from_file(str(path))
    spec.nuserdata = MEMORY
    spec.add_key(name="settled")
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
    # Meta-World reads where the fingertips are before their positions are refreshed.
    tips = [data.site(f"{side}EndEffector").xpos for side in ("right", "left")]
    data.userdata[START] = (tips[0] + tips[1]) / 2
    if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "obj") >= 0:
        data.userdata[:2] = data.body("obj").xpos[2], data.geom("objGeom").xpos[2]
    kind.arrange(data)
    mujoco.mj_forward(model, data)
    for field in ("qpos", "qvel", "ctrl"):
        getattr(model, f"key_{field}")[0] = getattr(data, field)
    model.key_mpos[0], model.key_mquat[0] = data.mocap_pos.ravel(), data.mocap_quat.ravel()
    return model, data
