"""One test for each of several values: plain `unittest`, which Slicer runs and pytest collects."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

Test = Callable[..., None]


def each(**values: Sequence[Any]) -> Callable[[Test], Test]:
    """Marks a test to be run with every combination of these values of its arguments."""

    def mark(test: Test) -> Test:
        vars(test)["_each"] = values
        return test

    return mark


def expanded(cls: type) -> type:
    """Replaces every marked test by one test per value, named after the value."""
    for name, test in list(vars(cls).items()):
        values = getattr(test, "_each", None)
        if values is None:
            continue
        delattr(cls, name)
        for combination in itertools.product(*values.values()):
            words = (re.sub(r"\W+", "_", str(value)) for value in combination)
            setattr(cls, "_".join((name, *words)), _with(test, dict(zip(values, combination, strict=True))))
    return cls


def _with(test: Test, arguments: dict[str, Any]) -> Test:
    def run(self: Any) -> None:
        test(self, **arguments)

    run.__doc__ = test.__doc__
    return run
