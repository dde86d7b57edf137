"""The mark of streams that belong to event stores: which streams can have it, and what the mark refuses.

The events of a marked stream must all be appended by event stores, because the server checks an expected version only
against other publishes with the same expectation. So eda refuses all other ways to publish to it.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from eda._codec import decode_event
from eda._pack import is_pack_payload
from eda.errors import ConfigError, DecodeError, NotSupported, Timeout
from eda.jetstream.api import Api
from eda.jetstream.direct_get import READ_TIMEOUT_S, DirectGet
from eda.jetstream.stored_message import StoredMessage
from eda.jetstream.stream_info import StreamInfo, check_takes_events
from eda.jetstream.subjects import is_covered
from eda.options import limit_on_old_events

__all__ = ["check_all_have_versions", "check_can_hold_store", "check_unmarked", "refusal_of_publish"]

BATCH = 1000  # messages that one request asks for
PAUSE_S = 0.1


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
    if info.options.packed:
        why = "it is packed, and an event store needs a message for each event; a new stream can hold one"
    elif info.retention != "limits":
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

    All messages from `from_sequence` onwards are read, and those on other subjects than events have are skipped. The
    leader says which event is the last, because the replica that answers a direct get may be behind. Raises
    ServerError, Timeout, Closed.
    """
    events = f"{stream}.*.*"
    direct = DirectGet(api, stream)
    try:
        await direct.open()
        deadline = monotonic() + READ_TIMEOUT_S
        while True:
            newest = await direct.done(direct.begin_leader_last(events))
            last = newest[0].sequence if newest else 0
            while from_sequence <= last:
                # The server finds the messages of ">" fastest.
                messages = await direct.done(direct.begin_next_of(">", from_sequence=from_sequence, n=BATCH))
                if not messages:
                    break
                for message in messages:
                    _check_has_version(stream, message, events)
                from_sequence = messages[-1].sequence + 1
                deadline = monotonic() + READ_TIMEOUT_S
            if from_sequence > last:
                return from_sequence - 1
            # The replica is behind, or somebody has removed the last events meanwhile.
            if monotonic() > deadline:
                raise Timeout(f"reading the versions of the events of stream {stream}", READ_TIMEOUT_S)
            await asyncio.sleep(PAUSE_S)
    finally:
        await direct.close()


def _check_has_version(stream: str, message: StoredMessage, events: str) -> None:
    try:
        why = "" if decode_event(message.payload).version > 0 else "is an event without a version"
    except DecodeError:
        why = "is a pack" if is_pack_payload(message.payload) else "is not an event"
    if why and is_covered(message.subject, [events]):
        raise ConfigError(
            f"stream {stream!r} can't be marked for event stores: the message at sequence {message.sequence} {why}. "
            "Only a stream whose events were all appended by event stores can be marked",
            argument="store",
        )
