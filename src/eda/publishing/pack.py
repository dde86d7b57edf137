"""`Pack`: how a publisher puts many events into one message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eda._pack import MAX_EVENTS_OF_PACK, MAX_SIZE_OF_PACK
from eda.compression import check_compression
from eda.errors import ConfigError

__all__ = ["Pack"]

MIN_BYTES = 1024
MAX_LINGER_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """How a publisher puts many events into one message, a pack. For streams with `StreamOptions(packed=True)`.

    The publisher adds events to an open pack. It closes the pack as soon as one of these is true:

    - the pack has `max_events` events (1 to 65,536);
    - the next event would make the pack larger than `max_bytes` bytes (1,024 to 16 MiB, counted before compression), or
      larger than the server's max_payload allows;
    - its first event was sent `linger_s` seconds ago (0 to 60; with 0, packs are closed at the end of each turn of the
      event loop);
    - `flush` was called, or a sender waits because too many events are pending.

    An event that is alone in its pack is published as an ordinary message. So is an event that is larger than
    `max_bytes`, unless the server refuses its size.

    `compression="zstd"` compresses each pack, if that makes it smaller. It needs Python 3.14, or the package
    `zstandard`, in the publisher and in all subscribers: `pip install 'eda-fast[zstd]'`.

    Raises ConfigError, which names the wrong option, also if the package for the compression is missing.
    """

    max_events: int = 128
    max_bytes: int = 64 * 1024
    linger_s: float = 0.002
    compression: Literal["zstd"] | None = None

    def __post_init__(self) -> None:
        _check_int("max_events", self.max_events, 1, MAX_EVENTS_OF_PACK)
        _check_int("max_bytes", self.max_bytes, MIN_BYTES, MAX_SIZE_OF_PACK)
        seconds = self.linger_s
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= MAX_LINGER_S:
            message = f"linger_s must be from 0 to {MAX_LINGER_S:g} seconds, not {seconds!r}"
            raise ConfigError(message, argument="linger_s")
        if self.compression is not None:
            check_compression(self.compression, "compression")


def _check_int(name: str, number: object, least: int, most: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise ConfigError(f"{name} must be an int from {least} to {most}, not {number!r}", argument=name)
