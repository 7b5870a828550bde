"""Errors that reach the user: a stable code, a sentence that says what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SAM2PropagateLib.texts import parts_of, restored
from SAM2PropagateLib.texts import tr as _


class SAM2PropagateError(Exception):
    """A failure that the user can be told about.

    Args:
        code: stable, in snake_case; programs and tests compare it.
        sentence: what is wrong, for the user.
        hint: what to do about it, for the user; may be empty.
    """

    def __init__(self, code: str, sentence: str, hint: str = "") -> None:
        super().__init__(f"{sentence} {hint}".strip())
        self.code = code
        self.sentence = sentence
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.sentence, self.hint)

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-able values, for the worker's `error` event.

        Beside the plain texts, `parts` holds what they are made of, where they remember it.
        """
        kind = "input" if isinstance(self, InputError) else "failure"
        values = {"code": self.code, "sentence": self.sentence, "hint": self.hint, "kind": kind}
        made_of = {"sentence": parts_of(self.sentence), "hint": parts_of(self.hint)}
        parts = {name: one for name, one in made_of.items() if one is not None}
        return {**values, "parts": parts} if parts else values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> SAM2PropagateError:
        """The error that `to_dict` described: an `InputError` if it was one, in the user's language."""
        kind = InputError if values.get("kind") == "input" else SAM2PropagateError
        parts = values.get("parts")
        parts = parts if isinstance(parts, Mapping) else {}
        sentence = restored(parts.get("sentence"), values["sentence"])
        return kind(values["code"], sentence, restored(parts.get("hint"), values.get("hint", "")))


class InputError(SAM2PropagateError):
    """The user's input is at fault: a file, a prompt or an option. The command line exits with 2."""


class Cancelled(SAM2PropagateError):  # noqa: N818  not an error: the user wanted it
    """The user cancelled; what was finished stays."""

    def __init__(self, code: str = "cancelled", sentence: str = "", hint: str = "") -> None:
        super().__init__(code, sentence or _("Cancelled."), hint)
