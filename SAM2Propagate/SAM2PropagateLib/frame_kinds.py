"""Names the kinds of a frame's mask, and the doubt from which a frame should be checked.

The names are also those on the wire, in reports and in scenes.
"""

from __future__ import annotations

PREVIEW, KEYFRAME, PROPAGATED, ABSENT, LOCKED = "preview", "keyframe", "propagated", "absent", "locked"
KINDS = (PREVIEW, KEYFRAME, PROPAGATED, ABSENT, LOCKED)

DOUBTFUL = 0.5
"""A frame with at least this much doubt is doubtful."""
