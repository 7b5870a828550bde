"""What the demonstration segments, and where its user clicks.

The places are a careful user's: the click is in the middle of its structure, the box and the ends follow the
reference labels to a voxel or so (3 mm).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Ras = tuple[float, float, float]
Color = tuple[float, float, float]

SAMPLE = Path(__file__).resolve().parents[1] / "Resources" / "Sample"
CT_FILE = SAMPLE / "abdomen_ct.nii.gz"
LABELS_FILE = SAMPLE / "abdomen_ct_labels.nii.gz"
LABEL_NAMES_FILE = SAMPLE / "abdomen_ct_labels.json"
WINDOW_PRESET = "soft-tissue"


@dataclass(frozen=True)
class Structure:
    """A structure to segment.

    Attributes:
        name: of the segment, and its ID.
        label: its name among the reference labels.
        color: of the segment, 0 to 1.
        middle: a point in its middle (RAS mm), where the view is centered.
        field_of_view: width of the slice view, mm.
        click: where to click (RAS mm), or None.
        box: two opposite corners of a box on one slice (RAS mm), or None.
        ends: two points (RAS mm) on the first and the last slice that it is on.
    """

    name: str
    label: str
    color: Color
    middle: Ras
    field_of_view: float
    ends: tuple[Ras, Ras]
    click: Ras | None = None
    box: tuple[Ras, Ras] | None = None

    @property
    def prompt_kind(self) -> str:
        """ "click" or "box"."""
        return "click" if self.box is None else "box"

    @property
    def start(self) -> Ras:
        """A point on the slice of its first prompt."""
        place = self.click if self.box is None else self.box[0]
        assert place is not None
        return place


BLADDER = Structure(
    name="urinary bladder",
    label="urinary_bladder",
    color=(0.337, 0.706, 0.914),
    middle=(2.0, 170.0, 148.0),
    field_of_view=210.0,
    click=(-1.0, 164.0, 148.0),
    ends=((2.0, 180.0, 106.0), (2.0, 180.0, 187.0)),
)
SPLEEN = Structure(
    name="spleen",
    label="spleen",
    color=(0.902, 0.624, 0.0),
    middle=(-100.0, 125.0, 394.0),
    field_of_view=180.0,
    box=((-150.0, 75.0, 394.0), (-80.0, 176.0, 394.0)),
    ends=((-118.0, 120.0, 343.0), (-105.0, 120.0, 427.0)),
)
STRUCTURES = (BLADDER, SPLEEN)
