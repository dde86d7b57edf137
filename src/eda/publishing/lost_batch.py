"""Whether an atomic batch whose answer was lost is stored.

The server stores a batch whole, with the batch's id and each event's number in the headers. So one event that is found
proves that all were stored, and tells where. If no event is found, the batch was not stored, unless the stream has
removed events since then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from eda.errors import ServerError
from eda.headers import read_headers
from eda.jetstream.api import Api
from eda.server_codes import MESSAGE_NOT_FOUND

__all__ = ["find_batch", "is_whole_since"]

MAX_READS = 16  # subjects that are looked through at once
MAX_DELETED = 100_000  # removed messages that the server is asked to name


async def find_batch(api: Api, stream: str, subjects: Sequence[str], batches: Collection[str], from_seq: int) -> int:
    """Return the sequence at which one of these batches begins; 0 when none of its events is in the stream.

    `subjects` are those of its events, `from_seq` is where the stream ended before. A limit on events per subject may
    have replaced some of them, so all subjects are looked through, the last one first. Raises ServerError, Timeout,
    Closed.
    """
    distinct = list(dict.fromkeys(reversed(subjects)))
    for at in range(0, len(distinct), MAX_READS):
        reading = [_find_in(api, stream, subject, batches, from_seq) for subject in distinct[at : at + MAX_READS]]
        for first in await asyncio.gather(*reading):
            if first:
                return first
    return 0


async def _find_in(api: Api, stream: str, subject: str, batches: Collection[str], from_seq: int) -> int:
    seq = from_seq
    while True:
        try:
            found = await api.message(stream, {"seq": seq, "next_by_subj": subject})
        except ServerError as error:
            if error.err_code != MESSAGE_NOT_FOUND:
                raise
            return 0
        headers = read_headers(found.hdrs)
        if headers.get("Nats-Batch-Id") in batches:
            place = headers.get("Nats-Batch-Sequence", "")
            return max(found.seq - int(place) + 1, 1) if place.isdecimal() and len(place) < 9 else found.seq
        seq = found.seq + 1


async def is_whole_since(api: Api, stream: str, state: dict[str, Any], from_seq: int) -> bool:
    """Whether nothing was removed of what the stream has stored from `from_seq` on. `state` is as STREAM.INFO has it.

    Raises ServerError, Timeout, Closed.
    """
    if state["first_seq"] > from_seq:
        return False
    n_there = state["messages"]
    n_removed = state["last_seq"] - state["first_seq"] + 1 - n_there if n_there else 0
    if n_removed <= 0:
        return True
    if n_removed > MAX_DELETED:
        return False
    answer = await api.request(f"STREAM.INFO.{stream}", {"deleted_details": True})
    named = answer.get("state", {}).get("deleted")
    if not isinstance(named, list) or not all(isinstance(each, int) for each in named):
        return False
    return len(named) >= n_removed and max(named) < from_seq
