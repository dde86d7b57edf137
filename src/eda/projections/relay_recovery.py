"""Which events of an outbox a stream has stored already: found by their ids, from a sequence onwards.

A relay that ended in the middle of a chunk may have stored any part of it, and the stream remembers ids only for its
duplicate window. So the next relay reads the ids of all messages after the sequence in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from eda.errors import Timeout
from eda.headers import id_in_headers
from eda.jetstream.api import Api
from eda.jetstream.direct_get import READ_TIMEOUT_S, DirectGet
from eda.jetstream.stored_message import StoredMessage

__all__ = ["stored_ids"]

BATCH = 1000  # messages that one request asks for
PAUSE_S = 0.1


async def stored_ids(api: Api, stream: str, after: int, *, allow_direct: bool) -> AsyncIterator[list[str]]:
    """Yield the ids of all events that the stream has stored after a sequence, in lists of at most 1,000.

    The stream's leader says which message is the last, because the replica that answers a direct get may be behind. A
    stream without `allow_direct` is read from its leader, message by message, which is slow. Raises ServerError,
    Timeout, Closed.
    """
    loop = asyncio.get_running_loop()
    everything = f"{stream}.>"
    direct = DirectGet(api, stream)
    try:
        await direct.open()
        deadline = loop.time() + READ_TIMEOUT_S
        while True:
            newest = await direct.done(direct.begin_leader_last(everything))
            last = newest[0].sequence if newest else 0
            while after < last:
                # The server finds the messages of ">" fastest.
                reading = (
                    direct.begin_next_of(">", from_sequence=after + 1, n=BATCH)
                    if allow_direct
                    else direct.begin_leader_next(everything, from_sequence=after + 1)
                )
                messages = await direct.done(reading)
                if not messages:
                    break
                after = messages[-1].sequence
                deadline = loop.time() + READ_TIMEOUT_S
                if ids := [each for each in map(_id_of, messages) if each]:
                    yield ids
            if after >= last:
                return
            # The replica is behind, or somebody has removed the last messages meanwhile.
            if loop.time() > deadline:
                raise Timeout(f"reading the ids of the events of stream {stream}", READ_TIMEOUT_S)
            await asyncio.sleep(PAUSE_S)
    finally:
        await direct.close()


def _id_of(message: StoredMessage) -> str:
    return id_in_headers(message.headers)
