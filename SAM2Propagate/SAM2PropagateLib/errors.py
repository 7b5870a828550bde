"""Errors that reach the user: a stable code, a sentence that says what is wrong, and what to do about it."""

from __future__ import annotations

from typing import Any


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

    def to_dict(self) -> dict[str, str]:
        """The error as JSON-able values, for the worker's `error` event."""
        kind = "input" if isinstance(self, InputError) else "failure"
        return {"code": self.code, "sentence": self.sentence, "hint": self.hint, "kind": kind}

    @staticmethod
    def from_dict(values: dict[str, str]) -> SAM2PropagateError:
        """The error that `to_dict` described: an `InputError` if it was one."""
        kind = InputError if values.get("kind") == "input" else SAM2PropagateError
        return kind(values["code"], values["sentence"], values.get("hint", ""))


class InputError(SAM2PropagateError):
    """The user's input is at fault: a file, a prompt or an option. The command line exits with 2."""


class Cancelled(SAM2PropagateError):  # noqa: N818  not an error: the user wanted it
    """The user cancelled; what was finished stays."""

    def __init__(self, code: str = "cancelled", sentence: str = "Cancelled.", hint: str = "") -> None:
        super().__init__(code, sentence, hint)
