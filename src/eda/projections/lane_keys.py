"""Which lane an event belongs to: a hash of its key that is the same in every process and every Python version."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID
from zlib import crc32

from eda._event import Event
from eda.errors import ConfigError
from eda.projections.options import Key

__all__ = ["lane_of_key", "lane_picker"]

# The version of this function is part of the contract with tables that exist: a key must never change its lane.


def lane_of_key(key: object, lanes: int) -> int:
    """Return the lane of a key: a str, bytes, int, bool, None, UUID, or a tuple of them. Raises ConfigError."""
    return crc32(_bytes_of(key)) % lanes


def _bytes_of(key: object) -> bytes:
    if isinstance(key, str):
        return str.__str__(key).encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return bytes(key)
    if isinstance(key, int):
        return b"%d" % key
    if key is None:
        return b""
    if isinstance(key, UUID):
        return key.bytes
    if isinstance(key, tuple):
        parts = [_bytes_of(each) for each in key]
        return b"".join(b"%d:%s" % (len(part), part) for part in parts)
    raise ConfigError(
        f"key must be a function that returns a str, bytes, int, UUID, None or a tuple of them, not a "
        f"{type(key).__name__}: it decides which lane an event belongs to, in every process alike",
        argument="key",
    )


def lane_picker(key: Key, lanes: int) -> Callable[[Event], int]:
    """Return a function that tells the lane of an event. It raises what the function `key` raises, and ConfigError."""
    if key == "aggregate":
        return lambda event: crc32(event.aggregate.encode("utf-8", "surrogatepass")) % lanes
    assert callable(key)
    return lambda event: lane_of_key(key(event), lanes)
