"""Settings for every test."""

from __future__ import annotations

import os

# Before torch starts its threads: waiting actively, they slow each other down twentyfold on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
