"""The options of `conn.publisher`, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from eda._event import Event
from eda.callbacks import check_callback
from eda.errors import ConfigError
from eda.publishing.pack import Pack

__all__ = ["Mode", "PublisherOptions"]

Mode: TypeAlias = Literal["auto", "window", "fast"]
"""How a publisher gets its acknowledgements; `Conn.publisher` describes the modes."""

MAX_PENDING = 65_536
USUAL_PENDING, USUAL_PENDING_BYTES = 4096, 8 * 2**20
PACKED_PENDING, PACKED_PENDING_BYTES = MAX_PENDING, 16 * 2**20  # with packs
MAX_PENDING_BYTES = 2**40
MIN_S, MAX_S = 0.001, 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class PublisherOptions:
    """The options of a publisher; `Conn.publisher` documents them. Raises ConfigError, which names the wrong option.

    `stops_on_failure` is for eda itself: after an event has failed, no other is accepted until `flush` is called, and
    if an event is overdue, all events under way fail with it. So no event is stored after one that it must follow.
    """

    pack: Pack | None = None
    mode: Mode = "auto"
    dedup: bool = True
    max_pending: int | None = None
    max_pending_bytes: int | None = None
    ack_timeout_s: float = 5.0
    timeout_s: float | None = None
    on_ack: Callable[[str, int], object] | None = None
    on_error: Callable[[Event, Exception], object] | None = None
    stops_on_failure: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "window", "fast"):
            raise ConfigError(f"mode must be 'auto', 'window' or 'fast', not {self.mode!r}", argument="mode")
        if not isinstance(self.dedup, bool):
            raise ConfigError(f"dedup must be True or False, not {self.dedup!r}", argument="dedup")
        if self.pack is not None and not isinstance(self.pack, Pack):
            raise ConfigError(f"pack must be an eda.Pack or None, not {self.pack!r}", argument="pack")
        if self.max_pending is not None:
            _check_int("max_pending", self.max_pending, MAX_PENDING)
        if self.max_pending_bytes is not None:
            _check_int("max_pending_bytes", self.max_pending_bytes, MAX_PENDING_BYTES)
        _check_seconds("ack_timeout_s", self.ack_timeout_s)
        if self.timeout_s is not None:
            _check_seconds("timeout_s", self.timeout_s)
        check_callback("on_ack", self.on_ack)
        check_callback("on_error", self.on_error)

    @property
    def window_events(self) -> int:
        """Return how many events may be pending."""
        usual = USUAL_PENDING if self.pack is None else PACKED_PENDING
        return usual if self.max_pending is None else self.max_pending

    @property
    def window_bytes(self) -> int:
        """Return how many bytes of events may be pending."""
        usual = USUAL_PENDING_BYTES if self.pack is None else PACKED_PENDING_BYTES
        return usual if self.max_pending_bytes is None else self.max_pending_bytes


def _check_int(name: str, number: object, most: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
        raise ConfigError(f"{name} must be an int from 1 to {most}, not {number!r}", argument=name)


def _check_seconds(name: str, seconds: object) -> None:
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not MIN_S <= seconds <= MAX_S:
        raise ConfigError(f"{name} must be from {MIN_S} to {MAX_S} seconds, not {seconds!r}", argument=name)
