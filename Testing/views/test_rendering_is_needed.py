"""A machine that cannot render says so, and what to install, instead of crashing or skipping."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux finds OpenGL through EGL libraries"
)
def test_without_opengl_the_view_says_what_to_install():
    script = (
        "from Headless.boot import boot\n"
        "from Headless.slice_view import RenderingError, SliceView\n"
        "headless = boot()\n"
        "try:\n"
        "    SliceView(headless)\n"
        "except RenderingError as error:\n"
        "    print('REFUSED:', error)\n"
    )
    paths = os.pathsep.join((str(_ROOT), str(_ROOT / "SAM2Propagate")))
    environment = {**os.environ, "PYTHONPATH": paths, "__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent"}
    environment.pop("DISPLAY", None)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "REFUSED: This machine cannot render offscreen" in done.stdout
    assert "apt-get install libegl1 libgl1-mesa-dri" in done.stdout
