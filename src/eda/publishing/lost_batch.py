"""Finds out whether an atomic batch is stored when the server's answer was lost.

The server stores all events of a batch or none, with the batch's id and each event's number in the headers. So if one
event is found, all were stored, and its number shows the sequence of the first one. If no event is found, the batch was
not stored, unless the stream has removed events since then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from eda.errors import ServerError
from eda.headers import read_headers
from eda.jetstream.api import Api
from eda.server_codes import MESSAGE_NOT_FOUND

__all__ = ["find_batch", "has_all_since"]

MAX_READS = 16  # subjects that are searched concurrently
MAX_DELETED = 100_000  # if the stream has removed more messages, the server is not asked for their sequences


async def find_batch(api: Api, stream: str, subjects: Sequence[str], batches: Collection[str], from_seq: int) -> int:
    """Return the first sequence of the one batch among `batches` that is stored; 0 if no event of them is found.

    `subjects` are the subjects of the batch's events. The search begins at `from_seq`, the sequence after the stream's
    last one before the batch. The stream may have removed some of the events (by its limit of events per subject), so
    all subjects are searched, the last one first. Raises ServerError, Timeout, Closed.
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
            number = headers.get("Nats-Batch-Sequence", "")
            return max(found.seq - int(number) + 1, 1) if number.isdecimal() and len(number) < 9 else found.seq
        seq = found.seq + 1


async def has_all_since(api: Api, stream: str, state: dict[str, Any], from_seq: int) -> bool:
    """Return whether the stream still has all messages that it has stored at `from_seq` or later.

    `state` is the field of that name in the answer to STREAM.INFO. Return False if nobody can tell.

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
