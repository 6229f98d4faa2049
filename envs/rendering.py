"""Pictures of a world, and a clear word where there is nothing to draw with."""

import os
import sys
from ctypes.util import find_library
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from clrl.envs.world import World

ADVICE = "install one (apt-get install libosmesa6) and set MUJOCO_GL=osmesa, or MUJOCO_GL=egl"


class RenderError(RuntimeError):
    """There is no OpenGL to draw with."""


def choose_backend() -> None:
    """Set MUJOCO_GL where the user did not and there is no display; call before MuJoCo loads."""
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return
    for library, backend in (("OSMesa", "osmesa"), ("EGL", "egl")):
        if find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return


class Camera:
    """Draws worlds of one model from its first camera, or from a free one."""

    def __init__(self, model: mujoco.MjModel, width: int = 640, height: int = 480) -> None:
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:  # each backend fails in its own way
            raise RenderError(f"no OpenGL renderer ({error}); {ADVICE}") from error
        self._camera = 0 if model.ncam else -1

    def shoot(self, world: World, index: int = 0) -> NDArray[np.uint8]:
        """One world as (height, width, 3)."""
        _, data = world.snapshot(index)
        self._renderer.update_scene(data, camera=self._camera)
        picture: NDArray[Any] = self._renderer.render()
        return picture

    def close(self) -> None:
        """Release the OpenGL context."""
        self._renderer.close()
