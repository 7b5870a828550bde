"""Looks made of one slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from SAM2PropagateLib.engine import imaging
from SAM2PropagateLib.training.cases import find_cases
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.loaded_case import LoadedCase
from SAM2PropagateLib.training.warps import draw_warped_look
from Testing.training.samples import outline_the_bright, write_case

SIZE = 64


@pytest.fixture
def volume(tmp_path):
    write_case(tmp_path, "a")
    case = LoadedCase(find_cases(tmp_path)[0])
    return case.frames


def looks(volume, count=12):
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        look = draw_warped_look(volume, SIZE, lambda i: FrameStock((i,)), outline_the_bright, rng)
        if look is not None:
            found.append(look)
        if len(found) == count:
            return found
    raise AssertionError(f"only {len(found)} of 60 draws gave a look")


def test_same_seed_same_look(volume):
    first, again = looks(volume, 1)[0], looks(volume, 1)[0]
    assert torch.equal(first.frames.parts[0], again.frames.parts[0])
    assert torch.equal(first.masks, again.masks)


def test_masks_stay_on_what_they_outline(volume):
    for look in looks(volume):
        gray = imaging.to_gray(look.frames.parts[0])[:, 0]
        for picture, mask in zip(gray, look.masks, strict=True):
            if mask.sum() < 40:
                continue
            around = torch.from_numpy(ndimage.binary_dilation(mask.numpy(), iterations=6)) & ~mask
            # A look may be inverted, and noise is added: what counts is that both sides differ.
            assert abs(float(picture[mask].mean() - picture[around].mean())) > 10


def test_structures_move_a_little_and_end(volume):
    ended = 0
    for look in looks(volume):
        areas = look.areas
        assert areas.max() >= 0.006 * SIZE * SIZE * 0.5
        filled = np.flatnonzero(areas)
        ended += int(len(filled) < len(areas))
        assert np.array_equal(filled, np.arange(filled[0], filled[-1] + 1))
        for one, other in zip(look.masks[filled[:-1]], look.masks[filled[1:]], strict=True):
            if min(one.sum(), other.sum()) > 0.5 * areas.max():
                assert float((one & other).sum() / (one | other).sum()) > 0.4
    assert ended >= 3  # many structures end among the frames


def test_nothing_outlined_gives_no_look(volume):
    rng = np.random.default_rng(0)
    assert draw_warped_look(volume, SIZE, lambda i: FrameStock((i,)), lambda i, p: [], rng) is None
