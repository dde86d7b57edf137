"""A stream's settings, adapted to what a server or account refuses."""

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

__all__ = ["adapted"]

# More bytes than the account allows one stream, than are left of the disk or of the account's, or of the memory.
TOO_MANY_BYTES = frozenset({STREAM_MAX_BYTES_EXCEEDED, STORAGE_EXCEEDED, MEMORY_EXCEEDED})

MIN_BYTES = 64 * 1024

_WINDOW = re.compile(r"duplicates? window .*limit of (\S+)")


def adapted(config: dict[str, Any], refused: ServerError, *, max_bytes: int | None = None) -> dict[str, Any] | None:
    """Return a stream's settings as the refusal of STREAM.CREATE demands them; None: it can't be adapted to.

    Each try may be refused for another reason: go on until it is created, or None. `max_bytes`: the limit to try first
    where the account demands one; a limit up to that is halved while it is too large. With None, the limit of bytes is
    the caller's own, and stays as it is.
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
