"""Finding: one thing that a diagnosis has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["SEVERITIES", "Finding", "Severity", "counted", "listed", "share"]

Severity: TypeAlias = Literal["ok", "note", "warning", "problem"]
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "problem")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that `Conn.diagnose` has found."""

    severity: Literal["ok", "note", "warning", "problem"]
    """ok: as it should be; note: good to know; warning: it will bite in a situation that may come; problem: events are
    lost, refused or not handled, now or soon"""
    check: str
    """which check this is, as a word that does not change between versions, such as "max_age" """
    stream: str | None = None
    """the stream; None: the finding is about the server or the account"""
    subscription: str | None = None
    """the subscription; None: the finding is about the whole stream"""
    message: str
    """what was found, and what follows from it"""
    advice: str | None = None
    """what to do about it; None: nothing"""


def counted(number: int, what: str) -> str:
    """Return a number of things: 1 event, 2 events."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def share(used: float, limit: float) -> str:
    """Return how much of a limit is used, in percent."""
    return f"{100 * used / limit:.0f} %"


def listed(names: list[str], most: int = 5) -> str:
    """Return the first names as a list in words."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
