"""Offers the CT that ships with the extension in Slicer's Sample Data module."""

from __future__ import annotations

from pathlib import Path

_NAME = "SAM2PropagateAbdomenCT"
_FILE = "abdomen_ct.nii.gz"
_SHA256 = "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1"
_MODULE = Path(__file__).resolve().parents[2]


def samplePath() -> Path | None:
    """Returns the path of the CT; None if the extension was installed without it."""
    # An installed extension has it among the module's resources, a checkout beside the module.
    for folder in (_MODULE / "Resources" / "Sample", _MODULE.parent / "Resources" / "Sample"):
        if (folder / _FILE).is_file():
            return folder / _FILE
    return None


def registerSampleData() -> None:
    """Offers the CT in Slicer's Sample Data module. It is a local file: nothing is downloaded."""
    path = samplePath()
    if path is None:
        return
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="SAM2 Propagate",
        sampleName=_NAME,
        thumbnailFileName=str(_MODULE / "Resources" / "Icons" / f"{_NAME}.png"),
        uris=path.as_uri(),
        fileNames=f"{_NAME}.nii.gz",
        nodeNames=_NAME,
        loadFileTypes="VolumeFile",
        checksums=f"SHA256:{_SHA256}",
    )
