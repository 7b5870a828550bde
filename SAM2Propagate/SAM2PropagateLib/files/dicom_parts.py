"""Divides a DICOM series into stacks: acquisitions, time points, echoes or orientations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_file import FILE_MARK, FRAME_ORDER, TIME_MARK, ImageHeader
from SAM2PropagateLib.files.dicom_stack import LPS_TO_RAS, along, even_step, is_even, places

# Slices of two stacks may alternate by these marks, even if no two images share a position.
_ALTERNATING = frozenset({"stack", "component", "echo time", "time point", "acquisition"})
_LAST_MARKS = (TIME_MARK, FILE_MARK)
# CT scanners take neighboring slices one after the other; MR scanners do not.
_IN_ORDER = frozenset({"CT"})
_ORDERS = ("acquisition time", "instance number", "content time")
# Fewer slices than this in a row are not a pass over the patient.
_LEAST_PASS = 3
# Steps within a pass differ by no more than this share.
_SAME_STEP = 0.4
_LISTED = 12


@dataclass(frozen=True)
class Part:
    """Slices of a series that belong together.

    Args:
        images: the slices.
        labels: what distinguishes them from other parts, for the user.
    """

    images: tuple[ImageHeader, ...]
    labels: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one short line for a list of choices: labels, number of slices, and place."""
        count = len(self.images)
        slices = f"{count} {'slice' if count == 1 else 'slices'}"
        times = sorted(image.marks[TIME_MARK] for image in self.images if TIME_MARK in image.marks)
        is_new = bool(times) and not any(label.startswith(TIME_MARK) for label in self.labels)
        when = [f"from {times[0]}"] if is_new else []
        return ", ".join([*self.labels, *when, slices, _extent(self.images)])


def by_geometry(images: Sequence[ImageHeader]) -> list[Part]:
    """Return the images grouped by orientation and size, in the order of their first appearance."""
    parts = []
    directions = _by_orientation(images)
    for direction in directions:
        plane = plane_name(direction[0])
        sizes: dict[tuple[object, ...], list[ImageHeader]] = {}
        for image in direction:
            sizes.setdefault(image_size(image), []).append(image)
        for members in sizes.values():
            labels = [plane] if len(directions) > 1 else []
            if len(sizes) > 1:
                labels.append(describe_size(image_size(members[0])))
            parts.append(Part(tuple(members), tuple(labels)))
    return parts


def image_size(image: ImageHeader) -> tuple[int, int, float, float]:
    """Return columns, rows, and the height and width of a pixel in mm."""
    assert image.pixel_spacing is not None
    height, width = (round(edge, 3) for edge in image.pixel_spacing)
    return image.columns, image.rows, height, width


def describe_size(size: tuple[int, int, float, float]) -> str:
    """Return an image's size, for a sentence."""
    return f"{size[0]} x {size[1]} pixels of {size[2]:g} x {size[3]:g} mm"


def plane_name(image: ImageHeader) -> str:
    """Return the plane nearest to the slice."""
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(image.normal)))]


def separate(part: Part) -> list[Part]:
    """Return parallel images of one size, divided into stacks.

    They are divided if several images lie at one position, if slices of different acquisitions alternate, and
    if acquisitions side by side do not make one even stack. A series of acquisitions end to end stays one
    stack.
    """
    found = _apart(part)
    if len(found) > 1:
        return [piece for one in found for piece in separate(one)]
    return _end_to_end(part)


def has_doubles(images: Sequence[ImageHeader]) -> bool:
    """Tell whether several images lie at one position."""
    return len(places(images)) < len(images)


def several(parts: Sequence[Part], title: str) -> InputError:
    """Return the error for images of several stacks.

    Args:
        parts: at least two, numbered for the user's choice.
        title: names the series in a sentence.
    """
    usable = [(number, part) for number, part in enumerate(parts, start=1) if len(part.images) > 1]
    hint = ""
    if usable:
        listed = "; ".join(f"{number} ({part.describe()})" for number, part in usable[:_LISTED])
        if len(usable) > _LISTED:
            listed += f"; and {len(usable) - _LISTED} more"
        hint = f"Choose one with --part and its number: {listed}."
    images = [image for part in parts for image in part.images]
    directions = _by_orientation(images)
    if len(directions) > 1:
        counted = ", ".join(f"{len(one)} {plane_name(one[0])}" for one in directions[:6])
        return InputError(
            "mixed_orientations",
            f"The slices of {title} lie in {len(directions)} different orientations ({counted}).",
            hint or "Give a series with parallel slices; one with several planes is no volume.",
        )
    counts: dict[tuple[int, int, float, float], int] = {}
    for image in images:
        counts[image_size(image)] = counts.get(image_size(image), 0) + 1
    if len(counts) > 1:
        common = sorted(counts.items(), key=lambda item: -item[1])[:4]
        listed = "; ".join(f"{count} of {describe_size(size)}" for size, count in common)
        return InputError(
            "mixed_sizes",
            f"The slices of {title} differ in size: {listed}.",
            hint or "Give a series whose slices have one size.",
        )
    if has_doubles(images):
        return doubles_error(images, hint)
    stacks = f"The slices of {title} come from {len(parts)} acquisitions or stacks"
    if any(_overlap(one, other) for n, one in enumerate(parts) for other in parts[n + 1 :]):
        sentence = f"{stacks} that overlap: slices of one lie between slices of another."
        if hint and is_even(images):
            hint = hint[:-1] + "; or --part all, if they are one volume together."
        return InputError("several_acquisitions", sentence, hint)
    reason = ""
    try:
        even_step([place[0] for place in places(images)])
    except InputError as error:
        reason = f" ({error.sentence.removesuffix('.')})"
    return InputError("several_acquisitions", f"{stacks} that form no even stack together{reason}.", hint)


def doubles_error(images: Sequence[ImageHeader], hint: str = "") -> InputError:
    """Return the error for different images at one position."""
    held = places(images)
    shared = [place for place in held if len(place) > 1]
    alone = "." if len({image.path for image in images}) == 1 else ", in a folder of its own."
    return InputError(
        "several_images_per_position",
        f"{len(shared)} of {len(held)} slice positions hold more than one image, for instance "
        f"{shared[0][0].name} and {shared[0][1].name}.",
        hint or f"Give one echo, phase or time point at a time{alone}",
    )


def _by_orientation(images: Sequence[ImageHeader]) -> list[list[ImageHeader]]:
    found: list[list[ImageHeader]] = []
    for image in images:
        for known in found:
            if np.allclose(np.array(image.orientation), np.array(known[0].orientation), atol=1e-3):
                known.append(image)
                break
        else:
            found.append([image])
    return found


def _extent(images: Sequence[ImageHeader]) -> str:
    """Return the range of places along the patient's axis nearest to the normal."""
    axis = int(np.argmax(np.abs(images[0].normal)))
    values = [float((LPS_TO_RAS[:3, :3] @ np.array(image.position))[axis]) for image in images]
    return f"{'RAS'[axis]} {min(values):.1f} to {max(values):.1f} mm"


def _apart(part: Part) -> list[Part]:
    """Divide the images by the first mark that distinguishes stacks; one part if none does."""
    images = part.images
    doubles = has_doubles(images)
    in_order = images[0].modality in _IN_ORDER
    names = list(dict.fromkeys(name for image in images for name in image.marks))
    # Times and files differ for many reasons, so they count last.
    names = [name for name in names if name not in _LAST_MARKS] + [
        name for name in _LAST_MARKS if name in names
    ]
    for name in names:
        values = [image.marks.get(name, "") for image in images]
        if _tells_apart(images, values, name in _ALTERNATING and "" not in values):
            return _grouped(part, values, name)
    if doubles or in_order:
        for name in _ORDERS:
            passes = _passes(images, name)
            if passes is not None and _tells_apart(images, passes, True):
                return _grouped(part, passes, "pass")
    if in_order:
        numbered = _ranks_by_number(images)
        if numbered is not None and _tells_apart(images, numbered, True):
            return _grouped(part, numbered, "same instance number, no.")
    if doubles:
        for name in ("trigger time", *_ORDERS, FRAME_ORDER):
            ranks = _ranks(images, name)
            if ranks is not None:
                return _grouped(part, ranks, f"{name} no.")
    return [part]


def _tells_apart(images: Sequence[ImageHeader], values: Sequence[str], may_alternate: bool) -> bool:
    """Tell whether these values, one per image, belong to different stacks.

    They do if they differ at one position, or if slices of one value lie between slices of another.
    """
    distinct = set(values)
    if len(distinct) < 2 or 2 * len(distinct) > len(images):
        return False
    value_of = {id(image): value for image, value in zip(images, values, strict=True)}
    held = places(images)
    if any(len({value_of[id(image)] for image in place}) > 1 for place in held):
        return True
    in_row = [value_of[id(place[0])] for place in held]
    runs = 1 + sum(one != other for one, other in pairwise(in_row))
    return may_alternate and runs > len(distinct)


def _grouped(part: Part, values: Sequence[str], name: str) -> list[Part]:
    groups: dict[str, list[ImageHeader]] = {}
    for image, value in zip(part.images, values, strict=True):
        groups.setdefault(value, []).append(image)
    return [
        Part(tuple(images), (*part.labels, f"{name} {value}" if value else f"no {name}"))
        for value, images in sorted(groups.items(), key=lambda item: _sort_key(item[0]))
    ]


def _sort_key(value: str) -> tuple[float, str]:
    """Return a key that sorts numbers by size, before texts."""
    try:
        return float(value.split(" ")[0]), value
    except ValueError:
        return np.inf, value


def _passes(images: Sequence[ImageHeader], order: str) -> list[str] | None:
    """Return which pass over the patient each image belongs to.

    A new one begins where, in this order, the direction turns or the step is unusual.
    """
    if len(images) < 2 or any(order not in image.times for image in images):
        return None
    positions = along(images)
    ordered = sorted(range(len(images)), key=lambda number: (images[number].times[order], positions[number]))
    steps = np.diff(positions[ordered])
    usual = float(np.median(np.abs(steps)))
    numbers = [0] * len(images)
    current, direction, sizes = 0, 0.0, [1]
    for this, step in zip(ordered[1:], steps, strict=True):
        turns = direction != 0 and np.sign(step) != direction
        if turns or abs(abs(step) - usual) > _SAME_STEP * usual or usual == 0:
            current, direction = current + 1, 0.0
            sizes.append(0)
        else:
            direction = float(np.sign(step))
        numbers[this] = current
        sizes[-1] += 1
    if min(sizes) < _LEAST_PASS:
        return None
    return [str(number + 1) for number in numbers]


def _ranks(images: Sequence[ImageHeader], order: str) -> list[str] | None:
    """Return the number of each image at its position, in this order, if all positions have equally many."""
    if any(order not in image.times for image in images):
        return None
    ranks: dict[int, str] = {}
    held = places(images)
    for place in held:
        times = sorted({image.times[order] for image in place})
        if len(place) != len(held[0]) or len(times) != len(place):
            return None
        ranks.update({id(image): str(times.index(image.times[order]) + 1) for image in place})
    return [ranks[id(image)] for image in images]


def _ranks_by_number(images: Sequence[ImageHeader]) -> list[str] | None:
    """Return the number of each image among those with its instance number, if all numbers are used equally
    often."""
    positions = along(images)
    members: dict[float, list[int]] = {}
    for number, image in enumerate(images):
        members.setdefault(image.times.get("instance number", 0.0), []).append(number)
    if len({len(one) for one in members.values()}) > 1 or len(members) < _LEAST_PASS:
        return None
    ranks = [""] * len(images)
    for one in members.values():
        for rank, number in enumerate(sorted(one, key=lambda number: float(positions[number])), start=1):
            ranks[number] = str(rank)
    return ranks


def _end_to_end(part: Part) -> list[Part]:
    """Divide acquisitions side by side that are even by themselves but not together; else return the part."""
    if is_even(part.images) or has_doubles(part.images):
        return [part]
    for name in ("stack", "acquisition", TIME_MARK):
        values = [image.marks.get(name, "") for image in part.images]
        if not 2 <= len(set(values)) <= len(values) // _LEAST_PASS:
            continue
        joined: list[Part] = []
        groups = sorted(_grouped(part, values, name), key=lambda one: float(along(one.images).min()))
        for group in groups:
            if joined:
                both = joined[-1].images + group.images
                if is_even(both):
                    label = f"{joined[-1].labels[-1]}, {group.labels[-1].removeprefix(name).strip()}"
                    joined[-1] = replace(joined[-1], images=both, labels=(*part.labels, label))
                    continue
            joined.append(group)
        if len(joined) > 1 and all(is_even(one.images) for one in joined):
            return joined
    return [part]


def _overlap(one: Part, other: Part) -> bool:
    normal = one.images[0].normal
    ends = []
    for part in (one, other):
        positions = [float(np.dot(np.array(image.position), normal)) for image in part.images]
        ends.append((min(positions), max(positions)))
    return ends[0][0] < ends[1][1] and ends[1][0] < ends[0][1]
