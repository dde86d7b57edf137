"""The logger of a connection: what it is given can't break a line, whoever wrote it."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, cast

from eda.errors import printable

__all__ = ["safe_logger"]


def safe_logger(logger: logging.Logger) -> logging.Logger:
    """Return what logs to `logger`, with every text in a message shown without control characters.

    Servers, other programs and other members of a name write into what is logged: texts of refusals, ids, names. A line
    break among these would begin a line that looks like one of ours.
    """
    return cast(logging.Logger, _SafeLogger(logger))  # it has all that we call


class _SafeLogger(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the record names who called us
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            super().log(level, msg, *map(_shown, args), **kwargs)


def _shown(arg: object) -> object:
    """Return an argument of a message as it may stand in a line; what shows its parts by `repr` is safe as it is."""
    return printable(str(arg)) if isinstance(arg, str | BaseException) else arg
