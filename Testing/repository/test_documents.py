"""What the pages say is there, is there."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import run
from SAM2PropagateLib.cli.main import parse_arguments

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Resources" / "Sample"
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "requirements/README.md"]
PAGES += ["Resources/Sample/README.md", "Testing/benchmarks/results/README.md"]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
CODE = ["SAM2Propagate", "Demo", "Headless", "Testing", "Tools"]


def test_every_file_has_a_plain_name() -> None:
    """A slip in a shell, such as an unquoted `>=1.26`, makes files that nobody meant."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, encoding="utf-8"
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    names = [name for name in listed.stdout.split("\0") if name]
    assert len(names) > 100
    assert [name for name in names if not re.fullmatch(r"[\w./-]+", name, re.ASCII)] == []


def test_files_that_the_docs_name_are_there() -> None:
    names = {path.name for folder in CODE for path in (ROOT / folder).rglob("*.py")} | {"run.py"}
    named = {
        (page, name)
        for page in PAGES
        if page not in ("CHANGELOG.md", "Testing/benchmarks/results/README.md")  # of the past
        for name in re.findall(r"`([\w/]+\.py)`", (ROOT / page).read_text(encoding="utf-8"))
        if "NAME" not in name
    }
    assert len(named) > 50
    assert sorted((page, name) for page, name in named if Path(name).name not in names) == []


def test_the_engines_page_names_every_file_of_it() -> None:
    folder = ROOT / "SAM2Propagate" / "SAM2PropagateLib" / "engine"
    page = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert [name for name in files if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    path = ROOT / page
    missing = []
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        there = path.parent / file if file else path
        if "://" not in target and (not there.exists() or (heading and heading not in anchors(there))):
            missing.append(target)
    assert missing == [], f"{page} points to what is not there"


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("command", "pages"),
    [
        ("segment", ("cli",)),
        ("models", ("cli",)),
        ("cohort", ("cohort",)),
        ("evaluate", ("finetune", "paper")),
        ("finetune", ("finetune",)),
    ],
)
def test_the_docs_name_every_option_of_a_command(
    command: str, pages: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([command, "--help"])
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, flags=re.M)) - {"--debug"}
    text = "".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in pages)
    assert len(options) > 2
    assert sorted(option for option in options if not re.search(rf"{option}(?![\w-])", text)) == []


def test_the_first_pages_name_every_command_and_every_folder() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8") + contributing
    for command in run.COMMANDS:
        assert f"run.py {command}" in text, command
    layout = contributing[contributing.index("## Where things are") :]
    for part in (ROOT / "SAM2Propagate" / "SAM2PropagateLib").glob("*/__init__.py"):
        assert f"{part.parent.name}/" in layout, f"the layout does not name {part.parent.name}/"


def test_the_requirements_page_matches_run_py() -> None:
    text = (ROOT / "requirements" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)\.txt` \| [^|]*\|(.*)\|$", text, flags=re.M))
    assert set(rows) == {*run.LAYERS, "constraints"}
    for name in run.LAYERS:
        marks = [cell.strip() == "x" for cell in rows[name].split("|")]
        assert dict(zip(("demo", "check", "test", "bench", "cli"), marks, strict=True)) == {
            command: name in layers for command, layers in run.COMMANDS.items()
        }


def test_the_sample_is_what_its_page_says() -> None:
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    hashes = dict(re.findall(r"^\| `(\S+)` \| `\S+` \| `([0-9a-f]{64})` \|$", text, flags=re.M))
    assert set(hashes) == {"abdomen_ct.nii.gz", "abdomen_ct_labels.nii.gz"}
    for name, digest in hashes.items():
        assert hashlib.sha256((SAMPLE / name).read_bytes()).hexdigest() == digest, name
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 3 * 2**20
    assert "Apache License" in (SAMPLE / "LICENSE.txt").read_text(encoding="utf-8")


def test_the_samples_labels_lie_on_its_image() -> None:
    image = sitk.ReadImage(str(SAMPLE / "abdomen_ct.nii.gz"))
    labels = sitk.ReadImage(str(SAMPLE / "abdomen_ct_labels.nii.gz"))
    assert image.GetSize() == labels.GetSize() == (122, 101, 112)
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(image, get)(), getattr(labels, get)(), atol=1e-4)
    names = json.loads((SAMPLE / "abdomen_ct_labels.json").read_text(encoding="utf-8"))
    voxels, values = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(labels)
    assert {int(value) for value in names} == set(np.unique(values).tolist()) - {0}
    # What each of these is made of shows in its Hounsfield units: labels and image are of one patient.
    by_name = {name: voxels[values == int(value)] for value, name in names.items()}
    assert 30 < np.median(by_name["liver"]) < 70
    assert -900 < np.median(by_name["lung_lower_lobe_right"]) < -600
    assert np.median(by_name["hip_left"]) > 120
    assert abs(np.median(by_name["urinary_bladder"])) < 25


def test_what_is_called_whole_is_whole() -> None:
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(SAMPLE / "abdomen_ct_labels.nii.gz")))
    names = json.loads((SAMPLE / "abdomen_ct_labels.json").read_text(encoding="utf-8"))
    values = {name: int(value) for value, name in names.items()}
    whole = ["kidney_left", "kidney_right", "urinary_bladder", "gallbladder", "small_bowel"]
    for name in [*whole, *(f"vertebrae_L{number}" for number in range(1, 6))]:
        found = np.argwhere(labels == values[name])
        assert (found.min(0) > 0).all() and (found.max(0) < np.array(labels.shape) - 1).all(), name
