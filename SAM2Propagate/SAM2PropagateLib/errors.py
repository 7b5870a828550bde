"""Errors that reach the user: a stable code, a sentence that says what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SAM2PropagateLib.texts import Words, from_wire, to_wire
from SAM2PropagateLib.texts import text as _


class SAM2PropagateError(Exception):
    """A failure that the user can be told about.

    Args:
        code: stable, in snake_case; programs and tests compare it.
        sentence: what is wrong, for the user.
        hint: what to do about it, for the user; may be empty.

    Attributes:
        said, advice: sentence and hint as given, for use in another text.
    """

    def __init__(self, code: str, sentence: Words, hint: Words = "") -> None:
        super().__init__(code, sentence, hint)
        self.code = code
        self.said = sentence
        self.advice = hint

    @property
    def sentence(self) -> str:
        """What is wrong, in the language of the process that shows it."""
        return str(self.said)

    @property
    def hint(self) -> str:
        """What to do about it, in the language of the process that shows it; may be empty."""
        return str(self.advice)

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.said, self.advice)

    def to_dict(self) -> dict[str, str]:
        """Return the error in plain words, for reports."""
        kind = "input" if isinstance(self, InputError) else "failure"
        return {"code": self.code, "sentence": self.sentence, "hint": self.hint, "kind": kind}

    def to_wire(self) -> dict[str, Any]:
        """Return the error as JSON-able values, for the worker's `error` event."""
        return {**self.to_dict(), "sentence": to_wire(self.said), "hint": to_wire(self.advice)}

    @staticmethod
    def from_wire(values: Mapping[str, Any]) -> SAM2PropagateError:
        """Return the error that `to_wire` described: an `InputError` if it was one.

        Raises:
            ValueError: these are not the values of an error.
        """
        kind = InputError if values.get("kind") == "input" else SAM2PropagateError
        return kind(str(values["code"]), from_wire(values["sentence"]), from_wire(values.get("hint", "")))


class InputError(SAM2PropagateError):
    """The user's input is at fault: a file, a prompt or an option. The command line exits with 2."""


class Cancelled(SAM2PropagateError):  # noqa: N818  not an error: the user wanted it
    """The user cancelled; what was finished stays."""

    def __init__(self, code: str = "cancelled", sentence: Words = "", hint: Words = "") -> None:
        super().__init__(code, sentence or _("Cancelled."), hint)


def shortened(text: str) -> str:
    """Return a foreign text for a sentence, cut to 80 characters."""
    return text if len(text) <= 80 else text[:77] + "..."
