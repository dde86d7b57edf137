"""What several fuzz targets share: bytes cut at random places, and messages made of random bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["DELIMITER", "messages", "pieces"]

DELIMITER = b"\0\n"  # between the messages of an input


def pieces(stream: bytes, seed: int) -> list[bytes]:
    """Cut the stream into pieces of random sizes; seed 0 gives single bytes, 1 the whole."""
    if seed <= 1:
        return [stream] if seed else [stream[i : i + 1] for i in range(len(stream))]
    source = random.Random(seed)
    cuts = sorted(source.randint(0, len(stream)) for _ in range(1 + seed % 8))
    return [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def messages(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Give the messages in an input, as (first part, headers, payload)."""
    for part in data.split(DELIMITER):
        head, _, body = part.partition(b"\0")
        headers = b""
        if body.startswith(b"NATS/1.0"):
            headers, end, body = body.partition(b"\r\n\r\n")
            headers += end
        yield head, headers, body
