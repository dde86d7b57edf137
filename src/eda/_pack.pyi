from typing import Final

from eda._event import Event

__all__ = [
    "MAX_EVENTS_OF_PACK",
    "MAX_SIZE_OF_PACK",
    "count_in_pack",
    "envelope_in_pack",
    "index_in_pack",
    "is_pack_payload",
    "place_of",
    "stored_events",
    "with_index",
]

MAX_EVENTS_OF_PACK: Final[int]
MAX_SIZE_OF_PACK: Final[int]

def count_in_pack(payload: bytes, /) -> int: ...
def envelope_in_pack(payload: bytes, index: int) -> bytes | None: ...
def index_in_pack(event: Event, /) -> int | None: ...
def is_pack_payload(payload: bytes, /) -> bool: ...
def stored_events(
    payload: bytes, stream: str, sequence: int, time_ns: int, subject: bytes = b""
) -> list[Event | None]: ...
def place_of(event: Event, /) -> str: ...
def with_index(event: Event, index: int) -> Event: ...
