"""Fixtures that stand elsewhere in every copy, which mujoco_warp by itself leaves in place.

It computes where geoms of bodies without joints are once, when data are made. A copy whose
`body_pos` differs would show its fixture at the new place and collide with it at the old one.
"""

import mujoco
import mujoco_warp as mjw
import numpy as np
import warp as wp


class StaticGeoms:
    """The geoms of a model that are fixed to the world."""

    def __init__(self, model: mujoco.MjModel, device: wp.Device) -> None:
        root = model.body_rootid[model.geom_bodyid]
        fixed = (model.body_weldid[model.geom_bodyid] == 0) & (model.body_mocapid[root] < 0)
        geoms = np.flatnonzero(fixed).astype(np.int32)
        turns = np.zeros((len(geoms), 9))
        for turn, geom in zip(turns, geoms, strict=True):
            mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
        with wp.ScopedDevice(device):
            self._geoms = wp.array(geoms, dtype=int)
            self._turns = wp.array(turns.reshape(-1, 3, 3), dtype=wp.mat33)

    def place(self, model: mjw.Model, data: mjw.Data) -> None:
        """Put them where their bodies are in each copy."""
        mjw.kinematics(model, data)
        wp.launch(
            _PLACE,
            dim=(data.nworld, self._geoms.shape[0]),
            inputs=[self._geoms, self._turns, model.geom_bodyid, model.geom_pos],
            outputs=[data.xpos, data.xmat, data.geom_xpos, data.geom_xmat],
        )


def _place_geom(
    geoms: wp.array[int],
    turns: wp.array[wp.mat33],
    body: wp.array[int],
    offset: wp.array2d[wp.vec3],
    xpos: wp.array2d[wp.vec3],
    xmat: wp.array2d[wp.mat33],
    geom_xpos: wp.array2d[wp.vec3],
    geom_xmat: wp.array2d[wp.mat33],
) -> None:
    copy, i = wp.tid()
    geom = geoms[i]
    turn = xmat[copy, body[geom]]
    geom_xpos[copy, geom] = xpos[copy, body[geom]] + turn * offset[copy % offset.shape[0], geom]
    geom_xmat[copy, geom] = turn * turns[i]


_PLACE = wp.kernel(_place_geom)
