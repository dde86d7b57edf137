"""The logger of a connection: makes texts from outside safe to log, adds structured fields, and keeps the problems.

Each part that knows its stream, subscription or the like makes a logger with these fields for itself, by `with_fields`.
So every record about a stream has `eda_stream`, whichever part logs it, and docs/logging.md can promise it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, cast

from eda.errors import printable
from eda.recent_problems import RecentProblems

__all__ = ["Seldom", "problems_of", "safe_logger", "with_fields"]

EVERY_S = 60.0
MAX_KEYS = 1000


def safe_logger(logger: logging.Logger, **fields: str) -> logging.Logger:
    """Return a logger that logs to `logger` and removes control characters from the texts in a message.

    Log messages contain texts of servers, of other programs and of other members: refusals, ids, names. A line break in
    them would begin a line that looks like one of eda's own. Each record has `fields`, also without control characters.
    """
    return _as_logger(_SafeLogger(logger, _safe(fields), RecentProblems()))


def with_fields(logger: logging.Logger, **fields: str) -> logging.Logger:
    """Return a logger like this one, whose records also have these fields."""
    if isinstance(logger, _SafeLogger):
        return _as_logger(_SafeLogger(logger.logger, {**logger.fields, **_safe(fields)}, logger.problems))
    return safe_logger(logger, **fields)


def problems_of(logger: logging.Logger) -> RecentProblems:
    """Return the problems that were logged by a logger of `safe_logger`, and by those made from it."""
    assert isinstance(logger, _SafeLogger)
    return logger.problems


def _as_logger(adapter: _SafeLogger) -> logging.Logger:
    return cast(logging.Logger, adapter)  # the adapter has all methods that eda calls


class Seldom:
    """Keeps a line that may be repeated without end from filling the log: it has its level at most once a minute.

    Otherwise the level is DEBUG. Lines with different keys do not count for each other.
    """

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    def level(self, level: int, key: str = "") -> int:
        """Return the level at which to log a line now; DEBUG if a line of this key was logged less than 60 s ago."""
        now = time.monotonic()
        if level <= logging.DEBUG or now - self._logged_at.get(key, -EVERY_S) < EVERY_S:
            return logging.DEBUG
        self._logged_at.pop(key, None)
        self._logged_at[key] = now
        if len(self._logged_at) > MAX_KEYS:
            del self._logged_at[next(iter(self._logged_at))]
        return level


class _SafeLogger(logging.LoggerAdapter[logging.Logger]):
    def __init__(self, logger: logging.Logger, fields: Mapping[str, str], problems: RecentProblems) -> None:
        super().__init__(logger, fields)
        self.fields = fields
        self.problems = problems

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # so that the record names the caller of this adapter
        kwargs["extra"] = {**self.fields, **(kwargs.get("extra") or {})}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        is_enabled = self.isEnabledFor(level)
        if is_enabled or level >= logging.WARNING:
            args = tuple(map(_shown, args))
        if level >= logging.WARNING:  # health checks tell of them, whatever the user's program logs
            text = str(msg) % args if args else str(msg)
            fields = {**self.fields, **(kwargs.get("extra") or {})}
            self.problems.note(level, text, _error_in(kwargs.get("exc_info")), fields)
        if is_enabled:
            super().log(level, msg, *args, **kwargs)


def _error_in(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    return sys.exception() if exc_info else None


def _safe(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: printable(value) for name, value in fields.items()}


def _shown(arg: object) -> object:
    """Return an argument as it may be logged: str and exceptions printable, all others unchanged (`repr` is safe)."""
    return printable(str(arg)) if isinstance(arg, str | BaseException) else arg
