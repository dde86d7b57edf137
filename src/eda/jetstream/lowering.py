"""A stream's settings, adapted to what a server or account refuses."""

from __future__ import annotations

import re
from typing import Any

from eda.errors import ServerError

__all__ = ["adapted"]

# JetStream error codes (server/errors.json of nats-server).
INVALID_CONFIG = 10052
MAX_BYTES_REQUIRED = 10113
# More bytes than the account allows one stream, than are left of the disk or of the account's, or of the memory.
TOO_MANY_BYTES = frozenset({10122, 10047, 10028})

MIN_BYTES = 64 * 1024

_WINDOW = re.compile(r"duplicates? window .*limit of (\S+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNIT_NS = {
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1000,
    "µs": 1000,
    "ns": 1,
}


def adapted(config: dict[str, Any], refused: ServerError, *, max_bytes: int | None = None) -> dict[str, Any] | None:
    """Return a stream's settings as the refusal of STREAM.CREATE demands them; None: it can't be adapted to.

    Each try may be refused for another reason: go on until it is created, or None. `max_bytes`: the limit to try first
    where the account demands one; a limit up to that is halved while it is too large. With None, the limit of bytes is
    the caller's own, and stays as it is.
    """
    code, given = refused.err_code, config.get("max_bytes", -1)
    if code == INVALID_CONFIG:
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
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return 0
    return int(sum(float(number) * _UNIT_NS[unit] for number, unit in parts))
