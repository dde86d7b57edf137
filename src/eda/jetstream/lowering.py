"""Lowers a stream's settings to the limits that the server's refusal names."""

from __future__ import annotations

import re
from typing import Any

from eda.errors import ServerError
from eda.jetstream.pull_limits import nanoseconds_of
from eda.server_codes import (
    MAX_BYTES_REQUIRED,
    MEMORY_EXCEEDED,
    STORAGE_EXCEEDED,
    STREAM_CONFIG_INVALID,
    STREAM_MAX_BYTES_EXCEEDED,
)

__all__ = ["lowered_stream"]

# The stream's limit of bytes is over the account's limit for one stream, or over what is left of disk or memory.
TOO_MANY_BYTES = frozenset({STREAM_MAX_BYTES_EXCEEDED, STORAGE_EXCEEDED, MEMORY_EXCEEDED})

MIN_BYTES = 64 * 1024

_WINDOW = re.compile(r"duplicates? window .*limit of (\S+)")


def lowered_stream(
    config: dict[str, Any], refused: ServerError, *, max_bytes: int | None = None
) -> dict[str, Any] | None:
    """Return lower settings after a refusal of STREAM.CREATE; None if lower settings can't help.

    The server may refuse the new settings for another reason. So call this until the stream is created or the result is
    None. If the account demands a limit of bytes, `max_bytes` is tried first, and then halved until the server accepts
    it. If `max_bytes` is None, the limit of bytes is not changed.
    """
    code, given = refused.err_code, config.get("max_bytes", -1)
    if code == STREAM_CONFIG_INVALID:
        window_ns = _window_in(refused.description)
        if 0 < window_ns < config.get("duplicate_window", 0):
            return config | {"duplicate_window": window_ns}
    elif max_bytes is None:
        return None
    elif code == MAX_BYTES_REQUIRED and given <= 0:
        return config | {"max_bytes": max_bytes}
    elif code in TOO_MANY_BYTES and 2 * MIN_BYTES <= given <= max_bytes:
        return config | {"max_bytes": given // 2}
    return None


def _window_in(description: str) -> int:
    """Return the limit of the duplicate window that the description names, in nanoseconds; 0 if it names no limit."""
    found = _WINDOW.search(description)
    if found is None:
        return 0
    text = found.group(1).rstrip(".,;)")
    return nanoseconds_of(text) or 0
