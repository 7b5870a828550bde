"""A small set of segment terminologies for the scene.

The full lists of 3D Slicer are not in the slicer-core wheel, and its logic complains on every start when the
three default files are missing. These few entries are enough for naming and coloring segments.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_CONTEXTS = {
    "SlicerGeneralAnatomy": "Segmentation category and type - 3D Slicer General Anatomy list",
    "DICOM-Master": "Segmentation category and type - DICOM master list",
}
# Identifiers that the logic looks for in a file; nothing is fetched from there.
_SCHEMAS = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc"
_REGION_FILE = "AnatomicRegionAndModifier-DICOM-Master"


def _code(value: str, meaning: str, **more: Any) -> dict[str, Any]:
    return {"CodingSchemeDesignator": "SCT", "CodeValue": value, "CodeMeaning": meaning, **more}


def _segmentContext(name: str) -> dict[str, Any]:
    tissue = _code("85756007", "Tissue", recommendedDisplayRGBValue=[128, 174, 128])
    liver = _code("10200004", "Liver", recommendedDisplayRGBValue=[221, 130, 101])
    mass = _code("4147007", "Mass", recommendedDisplayRGBValue=[144, 238, 144])
    return {
        "@schema": f"{_SCHEMAS}/segment-context-schema.json#",
        "SegmentationCategoryTypeContextName": name,
        "SegmentationCodes": {
            "Category": [
                _code("85756007", "Tissue", showAnatomy=True, Type=[tissue]),
                _code("123037004", "Anatomical Structure", showAnatomy=False, Type=[liver]),
                _code("49755003", "Morphologically Altered Structure", showAnatomy=True, Type=[mass]),
            ]
        },
    }


def writeTerminologies(folder: Path) -> None:
    """Writes the three files that the terminologies logic loads on start into `folder`, which must exist."""
    for file, name in _CONTEXTS.items():
        path = folder / f"SegmentationCategoryTypeModifier-{file}.term.json"
        path.write_text(json.dumps(_segmentContext(name)), encoding="utf-8")
    regions = {
        "@schema": f"{_SCHEMAS}/anatomic-context-schema.json#",
        "AnatomicContextName": "Anatomic codes - DICOM master list",
        "AnatomicCodes": {"AnatomicRegion": [_code("818983003", "Abdomen"), _code("51185008", "Thorax")]},
    }
    (folder / f"{_REGION_FILE}.term.json").write_text(json.dumps(regions), encoding="utf-8")
