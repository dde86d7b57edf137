"""The mark of streams that belong to event stores: which streams can have it, and what the mark refuses.

The events of a marked stream must all be appended by event stores, because the server checks an expected version only
against other publishes with the same expectation. So eda refuses all other ways to publish to it.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from time import monotonic
from typing import Any

from nats.errors import ConnectionReconnectingError
from nats.errors import Error as NatsError

from eda._codec import decode_event
from eda.errors import Closed, ConfigError, DecodeError, NotSupported, ServerError, Timeout
from eda.jetstream.api import ATTEMPT_TIMEOUT_S, REQUEST_TIMEOUT_S, Api, stream_error, while_answerable
from eda.jetstream.stream_info import StreamInfo, check_takes_events
from eda.jetstream.subjects import is_covered
from eda.options import limit_on_old_events
from eda.server_codes import MESSAGE_NOT_FOUND
from eda.transport._callback_sink import CallbackSink
from eda.transport.wire import Wire

__all__ = ["check_all_have_versions", "check_can_hold_store", "check_unmarked", "refusal_of_publish"]

BATCH = 4096  # messages that one request asks for
BATCH_BYTES = 4 * 1024 * 1024
PAUSE_S = 0.1

_SUBJECT = re.compile(rb"\r\nNats-Subject: ([^\r\n]*)")
_SEQUENCE = re.compile(rb"\r\nNats-Sequence: (\d+)")
_LAST_SEQUENCE = re.compile(rb"\r\nNats-Last-Sequence: (\d+)")


def refusal_of_publish(stream: str) -> ConfigError:
    """Return the error of a publish to a marked stream that does not come from an event store."""
    return ConfigError(
        f"stream {stream!r} belongs to event stores (its metadata has eda-store): only conn.store({stream!r}) may add "
        "events to it, because other publishes would break the versions of its aggregates",
        argument="stream",
    )


def check_unmarked(info: StreamInfo) -> None:
    """Raise ConfigError if the stream belongs to event stores, so that nobody else may publish to it."""
    if info.options.store:
        raise refusal_of_publish(info.name)


def check_can_hold_store(info: StreamInfo) -> None:
    """Raise ConfigError, which names the setting, if the stream can't hold the aggregates of an event store.

    Raises NotSupported if single messages can't be read fast enough from it.
    """
    check_takes_events(info)
    limit = limit_on_old_events(info.options)
    subjects = f"{info.name}.*.*"
    if info.retention != "limits":
        why = f"its retention is {info.retention!r}, so it removes events that were handled"
    elif limit:
        why = f"its limit {limit}={getattr(info.options, limit)!r} discards old events"
    elif info.max_events_per_subject is not None and not info.discard_new_per_subject:
        why = (
            f"its limit max_msgs_per_subject={info.max_events_per_subject} discards old events (unless the stream also "
            "has discard_new_per_subject)"
        )
    elif info.sources:
        why = f"it has sources ({', '.join(info.sources)}), whose events come without an expected version"
    elif info.subject_transform is not None:
        why = f"its subject_transform stores events under other subjects ({info.subject_transform})"
    elif info.allow_msg_counter:
        why = "it has allow_msg_counter: it takes only changes of counters"
    elif not is_covered(subjects, info.subjects):
        why = f"it does not listen to all of {subjects}, but to {', '.join(info.subjects)}"
    elif not info.allow_direct:
        raise NotSupported(f"an event store in stream {info.name!r}", needs="a stream with allow_direct on")
    else:
        return
    raise ConfigError(f"stream {info.name!r} can't hold an event store: {why}", argument=limit or "stream")


async def check_all_have_versions(api: Api, stream: str, *, from_sequence: int = 1) -> int:
    """Raise ConfigError if an event has no version, and return the sequence up to which this was checked.

    Messages before `from_sequence` and on other subjects than those of events are not looked at. Reads all events, by
    direct gets. The leader says which event is the last, because the replica that answers may be behind. Raises
    StreamNotFound, ServerError, Timeout, Closed.
    """
    last = await _last_sequence(api, stream)
    reader = _Reader(api, stream)
    deadline = monotonic() + REQUEST_TIMEOUT_S
    try:
        await reader.open()
        while from_sequence <= last:
            read_to = await reader.check_from(from_sequence)
            if read_to >= from_sequence:
                from_sequence = read_to + 1
                deadline = monotonic() + REQUEST_TIMEOUT_S
            elif monotonic() > deadline:
                raise Timeout(f"reading the versions of stream {stream}", REQUEST_TIMEOUT_S)
            else:
                await asyncio.sleep(PAUSE_S)
    finally:
        await reader.close()
    return max(last, from_sequence - 1)


async def _last_sequence(api: Api, stream: str) -> int:
    """Return the sequence of the stream's last event at its leader; 0 if there is none."""
    try:
        return (await api.message(stream, {"last_by_subj": f"{stream}.*.*"})).seq
    except ServerError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return 0
        raise stream_error(error, stream) from error


class _Reader:
    """Reads the messages of a stream by direct gets of many messages, and checks the versions of its events."""

    def __init__(self, api: Api, stream: str) -> None:
        self._api = api
        self._wire: Wire = api.wire
        self._stream = stream
        self._inbox = api.wire.new_inbox()
        self._subject = f"{api.prefix}.DIRECT.GET.{stream}"
        self._subscription: Any = None
        self._n_requests = 0
        self._token = b""  # the last token of the current request's inbox
        self._read_to: asyncio.Future[int] = self._wire.loop.create_future()

    async def open(self) -> None:
        try:
            self._subscription = await self._wire.attach(
                f"{self._inbox}.*", CallbackSink(len(self._inbox) + 1, self._take)
            )
        except NatsError as error:
            raise Closed("connection") from error

    async def close(self) -> None:
        if self._subscription is not None:
            self._wire.release(self._subscription)
            with suppress(NatsError):  # the connection was closed meanwhile
                await self._wire.detach(self._subscription)

    async def check_from(self, sequence: int) -> int:
        """Check the next messages from this sequence onwards, and return the last one's sequence.

        Return 0 if the replica that answers has no such message, or if no answer comes. Raises ConfigError.
        """
        self._n_requests += 1
        self._token = b"%d" % self._n_requests
        self._read_to = self._wire.loop.create_future()
        query = b'{"seq":%d,"next_by_subj":">","batch":%d,"max_bytes":%d}' % (sequence, BATCH, BATCH_BYTES)
        try:
            return await while_answerable(self._wire, self._subject, self._asked(query))
        except (TimeoutError, ConnectionReconnectingError):
            return 0
        except NatsError as error:
            if self._wire.is_closed:
                raise Closed("connection") from error
            return 0
        finally:
            self._token = b""

    async def _asked(self, query: bytes) -> int:
        if not self._wire.is_up:
            return 0
        await self._wire.publish(self._subject, query, reply=f"{self._inbox}.{self._n_requests}")
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            return await self._read_to

    def _take(self, token: bytes, headers: bytes, payload: bytes) -> None:
        if token != self._token or self._read_to.done():
            return
        if headers.startswith(b"NATS/1.0 ") and not _SUBJECT.search(headers):
            # 204: the end of the batch. 404: there is no such message. 503: nobody answers now.
            last = _LAST_SEQUENCE.search(headers) if headers.startswith(b"NATS/1.0 204") else None
            self._read_to.set_result(int(last[1]) if last else 0)
            return
        why = _why_no_version(payload)
        if not why:
            return
        subject, sequence = _SUBJECT.findall(headers), _SEQUENCE.findall(headers)
        if not subject or is_covered(subject[-1].decode(errors="replace"), [f"{self._stream}.*.*"]):
            at = f"the message at sequence {int(sequence[-1]) if sequence else 0} {why}"
            self._read_to.set_exception(
                ConfigError(
                    f"stream {self._stream!r} can't hold an event store: {at}; an event store needs a stream in which "
                    "all events were appended by an event store",
                    argument="store",
                )
            )


def _why_no_version(envelope: bytes) -> str:
    try:
        return "" if decode_event(envelope).version > 0 else "is an event without a version"
    except DecodeError:
        return "is not an event"
