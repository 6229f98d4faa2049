"""Pictures of a world, and a clear word where there is nothing to draw with."""

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from clrl.envs.opengl import ADVICE
from clrl.envs.world import World


class RenderError(RuntimeError):
    """There is no OpenGL to draw with."""


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
