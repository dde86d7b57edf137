"""A stream's settings, lowered to the limits that a refusal names."""

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

# More bytes than the account allows one stream, than are left of the disk or of the account's, or of the memory.
TOO_MANY_BYTES = frozenset({STREAM_MAX_BYTES_EXCEEDED, STORAGE_EXCEEDED, MEMORY_EXCEEDED})

MIN_BYTES = 64 * 1024

_WINDOW = re.compile(r"duplicates? window .*limit of (\S+)")


def lowered_stream(
    config: dict[str, Any], refused: ServerError, *, max_bytes: int | None = None
) -> dict[str, Any] | None:
    """Return settings that the server may accept, after a refusal of STREAM.CREATE; None if lower settings can't help.

    The next attempt may be refused for another reason, so call this until the stream is created or the result is None.
    `max_bytes`: the limit of bytes to try first if the account demands one; it is halved as long as it is too large.
    With None, the caller has chosen the limit of bytes, and it stays as it is.
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
    """Return the limit in nanoseconds that the server names, in Go's way of writing it; 0 where it names none."""
    found = _WINDOW.search(description)
    if found is None:
        return 0
    text = found.group(1).rstrip(".,;)")
    return nanoseconds_of(text) or 0
