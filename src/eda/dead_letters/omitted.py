"""The payload of a dead letter that is stored without it, because the letter would be too large."""

from __future__ import annotations

from eda._pack import envelope_in_pack
from eda.dead_letters.letter import Letter, digest_of, read_letter
from eda.errors import DecodeError
from eda.headers import DEAD_DIGEST
from eda.jetstream.api import Api

__all__ = ["PayloadGone", "omitted_payload"]


class PayloadGone(Exception):
    """The payload can't be found. The text says why; nothing outside this wing sees this exception."""


async def omitted_payload(api: Api, letter: Letter, stream: str) -> bytes:
    """Return the payload from the stream that has it, and that the letter names.

    Raises PayloadGone, StreamNotFound, ServerError, Timeout, Closed.
    """
    origin = letter.origin
    if origin is None:
        raise PayloadGone("its headers do not say where its payload is")
    sequence, index = origin
    original = await read_letter(api, stream, {"seq": sequence})
    if original is None:
        raise PayloadGone(f"its payload is gone from stream {stream}, sequence {sequence}")
    payload = original.payload if index is None else _envelope_in(original.payload, index)
    if payload is None or digest_of(payload) != letter.headers.get(DEAD_DIGEST):
        raise PayloadGone(f"stream {stream} has another message at sequence {sequence} now")
    return payload


def _envelope_in(payload: bytes, index: int) -> bytes | None:
    """Return the envelope of an event of a pack; None if the payload is no pack, or has no such event."""
    try:
        return envelope_in_pack(payload, index)
    except DecodeError:
        return None
