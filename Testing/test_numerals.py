"""Numbers in texts: only the digits 0 to 9 count."""

from __future__ import annotations

import pytest

from SAM2PropagateLib.numerals import decimal_number, is_number, whole_number

NO_DIGITS = ("²", "٣", "1²", "１２", "", " 1", "1 ", "1\n", "1_0", "+1", "-1", "1.0", "x")


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_digits_are_a_whole_number(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", [*NO_DIGITS, "1" * 19, "1" * 5000])
def test_other_texts_are_no_whole_number(text: str) -> None:
    assert whole_number(text) is None


@pytest.mark.parametrize(
    ("text", "number"), [("-12", -12), ("+.5", 0.5), ("1e-3", 0.001), ("5.", 5), ("1E2", 100)]
)
def test_a_decimal_number_may_have_a_sign_a_point_and_a_power(text: str, number: float) -> None:
    assert decimal_number(text) == number and is_number(text)


@pytest.mark.parametrize(
    "text", ["²", "٣.٥", "", " 1", "1\n", "1_0", ".", "1e", "nan", "inf", "-Infinity", "1e999", "0x1"]
)
def test_other_texts_are_no_decimal_number(text: str) -> None:
    assert decimal_number(text) is None
    assert is_number(text) == (text == "1e999")
