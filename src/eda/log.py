"""The logger of a connection, which makes texts from outside safe to log."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, cast

from eda.errors import printable

__all__ = ["safe_logger"]


def safe_logger(logger: logging.Logger) -> logging.Logger:
    """Return a logger that logs to `logger` and removes control characters from the texts in a message.

    Log messages contain texts of servers, of other programs and of other members: refusals, ids, names. A line break in
    them would begin a line that looks like one of eda's own.
    """
    return cast(logging.Logger, _SafeLogger(logger))  # the adapter has all methods that eda calls


class _SafeLogger(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # so that the record names the caller of this adapter
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            super().log(level, msg, *map(_shown, args), **kwargs)


def _shown(arg: object) -> object:
    """Return an argument as it may be logged: str and exceptions printable, all others unchanged (`repr` is safe)."""
    return printable(str(arg)) if isinstance(arg, str | BaseException) else arg
