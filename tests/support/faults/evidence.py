"""What proves that nothing was lost: the stream's own contents, and journals that were written to disk as it happened.

The stream is read by nats-py alone: ids from the header, aggregates from the subject. Nothing here uses eda.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import nats
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

__all__ = [
    "Journal",
    "Line",
    "Stored",
    "assert_each_handled",
    "assert_key_order",
    "assert_no_repeat_without_fault",
    "assert_serial_order",
    "assert_stored_once",
    "n_duplicates",
    "read_stream",
]


class Stored(NamedTuple):
    """A message of the stream."""

    sequence: int
    id: str
    aggregate: str


class Line(NamedTuple):
    """A line of a journal: who, what (sent, acked; begin, end, failed), of which event, and when."""

    member: str
    what: str
    event: str
    ns: int


class Journal:
    """A file to which each note is one write; any number of processes may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, member: str, what: str, event: object) -> None:
        os.write(self._file, f"{member} {what} {event} {time.monotonic_ns()}\n".encode())

    def close(self) -> None:
        os.close(self._file)

    def lines(self) -> list[Line]:
        """Return what was noted, in the order in which it was written."""
        rows = (line.split() for line in self.path.read_text().splitlines())
        return [Line(member, what, event, int(ns)) for member, what, event, ns in rows]

    def events(self, what: str) -> list[str]:
        return [line.event for line in self.lines() if line.what == what]


async def read_stream(url: str | list[str], stream: str, *, timeout_s: float = 30.0) -> list[Stored]:
    """Return all that the stream holds, in its order."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        js = client.jetstream()
        wanted = (await js.stream_info(stream)).state.messages
        found: list[Stored] = []
        seen: set[int] = set()  # a consumer whose creation was not answered may deliver beside the next one
        complete = asyncio.Event()

        async def take(message: Msg) -> None:
            if message.metadata.sequence.stream in seen:
                return
            seen.add(message.metadata.sequence.stream)
            tokens = message.subject.split(".")
            aggregate = tokens[2] if len(tokens) == 3 else ""
            sequence = message.metadata.sequence.stream
            found.append(Stored(sequence, (message.headers or {}).get("Nats-Msg-Id", ""), aggregate))
            if len(found) >= wanted:
                complete.set()

        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=take)
        config = ConsumerConfig(
            deliver_subject=inbox, deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, mem_storage=True
        )
        while wanted:  # a cluster in which a node has just come back may leave a request without an answer
            try:
                await js.add_consumer(stream, config)
                break
            except NatsTimeout:
                await client.flush()
        if wanted:
            await asyncio.wait_for(complete.wait(), timeout_s)
        return found
    finally:
        await client.close()


# --- what is proven --------------------------------------------------------------------------------------------------


def assert_stored_once(acknowledged: Iterable[str], stored: list[Stored]) -> None:
    """Each acknowledged event is in the stream exactly once, and no event is there twice."""
    counts = Counter(each.id for each in stored)
    lost = [each for each in acknowledged if each not in counts]
    assert not lost, f"{len(lost)} acknowledged events are not stored: {lost[:5]}"
    twice = [each for each, n in counts.items() if n > 1]
    assert not twice, f"{len(twice)} events are stored twice: {twice[:5]}"


def assert_each_handled(lines: list[Line], stored: list[Stored], *, but: Iterable[int] = ()) -> None:
    """Each event of the stream was handled to the end at least once."""
    ended = {int(line.event) for line in lines if line.what == "end"} | set(but)
    missed = [each.sequence for each in stored if each.sequence not in ended]
    assert not missed, f"{len(missed)} stored events were never handled: {missed[:5]}"


def assert_serial_order(lines: list[Line], stored: list[Stored]) -> None:
    """No handler begins while an earlier event of the stream is not handled."""
    assert_key_order(lines, [each._replace(aggregate="") for each in stored])


def assert_key_order(lines: list[Line], stored: list[Stored]) -> None:
    """No handler begins while an earlier event of its aggregate is not handled."""
    before: dict[int, int] = {}
    last: dict[str, int] = {}
    for each in stored:
        before[each.sequence] = last.get(each.aggregate, 0)
        last[each.aggregate] = each.sequence
    ended: set[int] = {0}
    for line in sorted(lines, key=lambda line: line.ns):
        if line.what == "begin" and int(line.event) in before:
            earlier = before[int(line.event)]
            assert earlier in ended, f"{line.event} began before {earlier} of the same key was handled"
        elif line.what == "end":
            ended.add(int(line.event))


def assert_no_repeat_without_fault(lines: list[Line], faults_ns: Iterable[int] = (), *, slack_s: float = 1.0) -> None:
    """In one process, what ended begins again only if something went wrong about when it was to be acknowledged.

    An acknowledgement is written in the turn in which the handler ends; one that a fault swallowed is for `slack_s` not
    known to the server. Without faults, none is repeated.
    """
    faults = sorted(faults_ns)
    ended: dict[tuple[str, str], int] = {}
    for line in lines:
        place = (line.member, line.event)
        if line.what == "end":
            ended[place] = line.ns
        elif line.what == "begin" and place in ended:
            since = ended[place]
            explained = any(since - slack_s * 1e9 < fault < line.ns for fault in faults)
            assert explained, f"{line.member} handled {line.event} again after it was acknowledged"


def n_duplicates(lines: list[Line]) -> int:
    """Count the handler calls that ended well beyond the first of each event."""
    ends = Counter(line.event for line in lines if line.what == "end")
    return sum(ends.values()) - len(ends)
