"""Three ways to fail, counted on masks whose failures are known."""

from __future__ import annotations

import numpy as np
import pytest

from SAM2PropagateLib.evaluation.failures import dice_by_distance, slice_failures
from SAM2PropagateLib.evaluation.metrics import BoolArray

FRAME = 10


def reference() -> BoolArray:
    """Ten pixels on each of slices 5 to 15 of 20."""
    mask = np.zeros((20, 4, 10), bool)
    mask[5:16, 1] = True
    return mask


def failures(found: BoolArray, **how: bool):  # type: ignore[no-untyped-def]
    return slice_failures(found, reference(), FRAME, 2.5, is_given=how.get("is_given", False))


def test_what_is_right_fails_in_no_way() -> None:
    told = failures(reference())
    assert (told.on_slice, told.excess, told.beyond, told.beyond_mm, told.held) == (1, 0, 0, 0, 1)
    assert (told.is_too_much, told.goes_on, told.fades) == (False, False, False)
    assert told.room == 9


def test_too_much_on_the_prompted_slice() -> None:
    found = reference()
    found[FRAME, 2, :5] = True
    assert failures(found).excess == 0.5 and failures(found).is_too_much is False
    found[FRAME, 2, :6] = True
    assert failures(found).excess == 0.6 and failures(found).is_too_much is True
    # What is missing there makes up for nothing.
    found[FRAME, 1, :6] = False
    assert failures(found).excess == 0.6
    assert failures(found, is_given=True).is_too_much is None
    # Too much elsewhere is another failure.
    other = reference()
    other[FRAME + 1] = True
    assert failures(other).excess == 0


def test_going_on_after_the_structure_has_ended() -> None:
    found = reference()
    found[[4, 16], 1] = True
    told = failures(found)
    assert (told.beyond, told.beyond_mm, told.goes_on) == (2, 2.5, False)
    found[19, 0, 0] = True
    told = failures(found)
    assert (told.beyond, told.beyond_mm, told.goes_on) == (3, 10.0, True)


def test_where_the_volume_ends_nothing_can_go_on() -> None:
    mask = np.ones((6, 3, 3), bool)
    told = slice_failures(mask, mask, 3, 1.0, is_given=False)
    assert (told.room, told.goes_on) == (0, None)
    mask[:2] = False
    assert slice_failures(mask, mask, 3, 1.0, is_given=False).goes_on is None
    mask[2] = False
    assert slice_failures(mask, mask, 3, 1.0, is_given=False).goes_on is False


def test_fading_is_the_share_of_the_way_that_is_held() -> None:
    found = reference()
    # Lost on slice 14; that it comes back on 15 does not count.
    found[14] = False
    told = failures(found)
    assert told.held == pytest.approx(8 / 10) and told.fades is False
    found[6] = False
    told = failures(found)
    assert told.held == pytest.approx(6 / 10) and told.fades is True
    # Half of the mask is a Dice of 2/3: that holds.
    found = reference()
    found[12, 1, 5:] = False
    assert failures(found).held == 1
    found[12, 1, 3:] = False
    assert failures(found).held == pytest.approx(6 / 10)


def test_only_what_began_well_can_fade() -> None:
    found = np.zeros_like(reference())
    found[FRAME, 1, :5] = True
    told = failures(found)
    assert told.on_slice == pytest.approx(2 / 3) and told.held == 0 and told.fades is None
    found[FRAME, 1, :6] = True
    assert failures(found).fades is True


def test_a_structure_on_one_slice_cannot_fade() -> None:
    mask = np.zeros((9, 3, 3), bool)
    mask[4] = True
    told = slice_failures(mask, mask, 4, 1.0, is_given=True)
    assert (told.held, told.fades) == (None, None)


def test_dice_by_distance_is_of_the_structure_s_slices_alone() -> None:
    found = reference()
    found[3] = True
    found[12, 1, 5:] = False
    told = dict(dice_by_distance(found, reference(), FRAME, 2.5))
    assert list(told) == [(slice_ - FRAME) * 2.5 for slice_ in range(5, 16)]
    assert told[5.0] == pytest.approx(2 / 3, abs=1e-6) and told[-12.5] == told[0.0] == 1
