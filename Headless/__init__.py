"""3D Slicer's scene and slice views without its application, on the slicer-core wheel: for the tests
and the demo.
"""

import os
import sys

# Without a display server VTK would try X first and warn before it falls back to EGL.
if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
