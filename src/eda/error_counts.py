"""How many events have failed, by the type of their error."""

from __future__ import annotations

__all__ = ["OTHER", "ErrorCounts", "name_of"]

MAX_TYPES = 32
OTHER = "_OTHER"  # OpenTelemetry's name for all types that have none of their own


class ErrorCounts:
    """Counts failed events by the type of their error. Types beyond the first 32 are counted together."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, error: BaseException, n: int = 1) -> None:
        """Count `n` events that failed with this error."""
        name = name_of(error)
        if name not in self.counts and len(self.counts) >= MAX_TYPES:
            name = OTHER
        self.counts[name] = self.counts.get(name, 0) + n


def name_of(error: BaseException) -> str:
    """Return the name of an error's type, with its module unless that is `builtins`."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
