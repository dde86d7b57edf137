"""The latest warnings and errors of a connection, as its log has them, for health checks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eda.errors import error_text, printable

__all__ = ["Problem", "RecentProblems"]

MAX_KEPT = 50  # problems
MAX_SUBJECTS = 1000  # streams, subscriptions and the like whose last problem is kept
MAX_TEXT = 500  # characters

# The fields of a record that say what it is about, the narrowest first.
ABOUT = ("eda_subscription", "eda_projection", "eda_outbox", "eda_stream")


@dataclass(frozen=True, slots=True)
class Problem:
    """A warning or an error that was logged."""

    time_ns: int
    """when it was logged, in nanoseconds since 1970"""
    level: int
    """its level, as in the module logging"""
    text: str
    """its text in one line, with the text of the exception that was logged with it"""
    fields: Mapping[str, Any]
    """its structured fields"""


class RecentProblems:
    """The latest problems of a connection, and the last one of each subscription, projection, outbox or stream.

    Other threads and finalizers may note problems at any time, also while problems are read. So copies are read.
    """

    def __init__(self) -> None:
        self._latest: deque[Problem] = deque(maxlen=MAX_KEPT)
        self._last_of: dict[tuple[Any, ...], Problem] = {}

    def note(self, level: int, text: str, error: BaseException | None, fields: Mapping[str, Any]) -> None:
        """Note a record that is a warning or worse."""
        if error is not None:
            text = f"{text}: {error_text(error)}"
        problem = Problem(time.time_ns() // 1000 * 1000, level, printable(text[:MAX_TEXT]), fields)
        self._latest.append(problem)
        about = tuple(fields.get(name) for name in ABOUT)
        self._last_of.pop(about, None)
        self._last_of[about] = problem
        while len(self._last_of) > MAX_SUBJECTS:
            oldest, *_ = list(self._last_of)
            self._last_of.pop(oldest, None)

    def latest(self, n: int) -> list[Problem]:
        """Return the last `n` problems, the newest first."""
        return [*self._latest][: -n - 1 : -1]

    def last_of(self, **fields: str | None) -> Problem | None:
        """Return the last problem with these fields; None: there was none. A field of None must be missing."""
        found = (
            each
            for each in reversed(list(self._last_of.values()))
            if all(each.fields.get(name) == value for name, value in fields.items())
        )
        return next(found, None)
