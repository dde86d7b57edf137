from typing import Final

from eda._event import Event

__all__ = ["MAX_EVENTS_OF_PACK", "MAX_SIZE_OF_PACK", "is_pack_payload", "place_of", "stored_events"]

MAX_EVENTS_OF_PACK: Final[int]
MAX_SIZE_OF_PACK: Final[int]

def is_pack_payload(payload: bytes, /) -> bool: ...
def stored_events(
    payload: bytes, stream: str, sequence: int, time_ns: int, subject: bytes = b""
) -> list[Event | None]: ...
def place_of(event: Event, /) -> str: ...
