"""Which OpenGL to draw with; loads no MuJoCo, which reads MUJOCO_GL once and for all."""

import os
import sys
from ctypes.util import find_library

ADVICE = "install one (apt-get install libosmesa6) and set MUJOCO_GL=osmesa, or MUJOCO_GL=egl"


def choose_backend() -> None:
    """Set MUJOCO_GL where the user did not and there is no display; call before MuJoCo loads."""
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return
    for library, backend in (("OSMesa", "osmesa"), ("EGL", "egl")):
        if find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return
