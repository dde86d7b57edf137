"""How many events of a stream remain after a position, and how old the oldest of them is."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.errors import Error as NatsError

from eda._nuid import next_nuid
from eda.cursors.position import sequence_at
from eda.errors import ServerError, Timeout
from eda.jetstream.api import REQUEST_TIMEOUT_S, Api, ask, stream_error
from eda.jetstream.consumer_settings import reader_settings
from eda.jetstream.labels import labels
from eda.jetstream.schemas import Stream
from eda.jetstream.stream_info import StreamInfo, info_of
from eda.server_codes import FORBIDDEN, MESSAGE_NOT_FOUND
from eda.times import since_epoch_ns, time_of
from eda.transport.wire import Wire

__all__ = ["Remaining", "StreamState"]

PROBE_LIFE_S = 5.0  # after this, the server removes a consumer that was made to count events and not deleted


class StreamState:
    """The state of the stream when it was read."""

    def __init__(self, info: StreamInfo, answer: dict[str, Any]) -> None:
        self.info = info
        self.created: str = answer["created"]
        state = answer["state"]
        self.last: int = state["last_seq"]
        self.first: int = state["first_seq"]
        self.is_whole: bool = not state.get("num_deleted")
        self.has_direct: bool = bool(answer["config"].get("allow_direct"))
        # The server's time, because the server also sets the times of messages.
        self.now: datetime = time_of(answer.get("ts")) or datetime.now(UTC)

    def age_s(self, time: datetime) -> float:
        return max((self.now - time).total_seconds(), 0.0)


class Remaining:
    """Counts the events that remain in streams. This changes no stream and no kept consumer."""

    def __init__(self, wire: Wire, api: Api) -> None:
        self._wire = wire
        self._api = api

    async def stream(self, stream: str) -> StreamState:
        """Return the stream as it is now. Raises StreamNotFound, ServerError, Timeout, Closed."""
        try:
            answer = await self._api.request(f"STREAM.INFO.{stream}", schema=Stream)
        except ServerError as error:
            raise stream_error(error, stream) from error
        return StreamState(info_of(answer), answer)

    async def sequence_at(self, stream: str, time: datetime) -> int:
        """Return the sequence of the first message stored at this time or later; the next sequence if there is none."""
        state = await self.stream(stream)
        return await sequence_at(self._api, stream, since_epoch_ns(time), state.info)

    async def count(
        self, state: StreamState, begin: int, filter: list[str], n: int | None
    ) -> tuple[int | None, datetime | None]:
        """Return how many events remain from sequence `begin` onwards, and the time of the first. `n`: known count."""
        counts: list[int | None] = []
        times: list[datetime] = []
        for subject in filter or [">"]:
            left, time = await self._first_matching(state, begin, subject)
            if left is None and n is None:
                left = await self._count_by_reader(state, begin, subject)
            counts.append(left)
            if time is not None:
                times.append(time)
        if n is None and None not in counts:
            n = sum(count for count in counts if count is not None)
        return n, min(times, default=None)

    async def _first_matching(self, state: StreamState, begin: int, subject: str) -> tuple[int | None, datetime | None]:
        """Return how many messages from `begin` onwards match, and the time of the first one; None: unknown."""
        stream, query = state.info.name, {"seq": begin, "next_by_subj": subject}
        is_said_to_be_none = False
        if state.has_direct:
            with suppress(NatsError, ServerError, ValueError):  # the request below raises if something is wrong
                wanted = msgspec.json.encode(query | {"batch": 1})
                answer = await ask(self._wire, f"{self._api.prefix}.DIRECT.GET.{stream}", wanted, REQUEST_TIMEOUT_S)
                headers = answer.headers or {}
                # A replica or a mirror that is behind also says that there is none, so the leader is asked.
                is_said_to_be_none = headers.get("Status") == "404"
                time = time_of(headers.get("Nats-Time-Stamp"))
                if time is not None and headers.get("Nats-Stream") == stream:  # a mirror has other counts
                    left = headers.get("Nats-Num-Pending", "")
                    return int(left) + 1 if left.isdecimal() and len(left) < 19 else None, time
        try:
            message = await self._api.message(stream, query)
        except ServerError as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return 0, None
            if error.code == FORBIDDEN and is_said_to_be_none:
                return None, None
            raise
        return None, time_of(message.time)

    async def _count_by_reader(self, state: StreamState, begin: int, subject: str) -> int | None:
        """Return how many events a new reader at `begin` would get. Servers before 2.11 offer no other count."""
        if state.info.retention != "limits":
            return None  # in other streams a consumer changes which events the server keeps
        stream, name = state.info.name, f"eda-r-{next_nuid()}"
        config = reader_settings(name, PROBE_LIFE_S) | {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": begin,
            "filter_subject": subject,
        }
        config |= labels("reader", client=self._api.client, what=f"a look at stream {stream!r}")
        made = await self._api.create_consumer(stream, name, config)
        with suppress(ServerError, Timeout):  # the server removes it after PROBE_LIFE_S
            await self._api.delete_consumer(stream, name)
        return int(made.get("num_pending", 0))
