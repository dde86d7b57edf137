"""What proves that nothing was lost: the stream's own contents, and journals that were written to disk as it happened.

The stream is read by nats-py and the protobuf package alone: ids from the header and aggregates from the subject, or,
where the message is a pack, both from the envelopes. Nothing here uses eda.

The place of an event is its sequence and its index in the message. A journal notes it as "7", or "7.3" in a pack.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import nats
import zstandard
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from support.packs import PackMessage
from support.reference import Envelope

__all__ = [
    "Growing",
    "Journal",
    "Line",
    "Place",
    "Stored",
    "assert_each_handled",
    "assert_key_order",
    "assert_no_repeat_without_fault",
    "assert_sent_in_order",
    "assert_serial_order",
    "assert_stored",
    "assert_stored_once",
    "events_of",
    "n_duplicates",
    "place_of_text",
    "read_stream",
]

Place = tuple[int, int]
NOWHERE: Place = (0, 0)  # before the first event of a stream

PACK_TAGS = (b"\x7a", b"\x8a\x01")  # the fields 15 and 17, one of which is the first of a pack


class Stored(NamedTuple):
    """An event of the stream. `index`: its place in its message, from 0; `n_beside`: how many share the message."""

    sequence: int
    id: str
    aggregate: str
    index: int = 0
    n_beside: int = 0

    @property
    def place(self) -> Place:
        return self.sequence, self.index


class Line(NamedTuple):
    """A line of a journal: who, what (sent, acked; begin, end, failed), of which event, and when."""

    member: str
    what: str
    event: str
    ns: int

    @property
    def place(self) -> Place:
        return place_of_text(self.event)


def place_of_text(text: str) -> Place:
    """Return the place that a journal noted."""
    sequence, _, index = text.partition(".")
    return int(sequence), int(index or 0)


class Growing:
    """A file of lines that processes append to; it need not exist yet.

    Tests look at their journals hundreds of times in a second, so each line is read once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._n_read = 0

    def new_lines(self) -> list[str]:
        """Return the lines that earlier calls have not returned.

        A line that is being written may be read in part, where it crosses two pages; it counts when it is whole.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._n_read)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._n_read += len(whole) + len(end)
        return whole.decode().splitlines()


class Journal:
    """A file to which each note is one write; any number of processes may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._reading = Growing(path)
        self._lines: list[Line] = []

    def note(self, member: str, what: str, event: object) -> None:
        os.write(self._file, f"{member} {what} {event} {time.monotonic_ns()}\n".encode())

    def close(self) -> None:
        os.close(self._file)

    def lines(self) -> list[Line]:
        """Return what was noted, in the order in which it was written."""
        rows = (line.split() for line in self._reading.new_lines())
        self._lines += [Line(member, what, event, int(ns)) for member, what, event, ns in rows]
        return list(self._lines)

    def events(self, what: str) -> list[str]:
        return [line.event for line in self.lines() if line.what == what]


async def read_stream(url: str | list[str], stream: str, *, timeout_s: float = 30.0) -> list[Stored]:
    """Return all events that the stream holds, in its order."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        js = client.jetstream()
        wanted = (await js.stream_info(stream)).state.messages
        found: dict[int, Msg] = {}  # a consumer whose creation was not answered may deliver beside the next one
        complete = asyncio.Event()

        async def take(message: Msg) -> None:
            found.setdefault(message.metadata.sequence.stream, message)
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
    finally:
        await client.close()
    return [
        event
        for sequence, message in sorted(found.items())
        for event in events_of(sequence, message.subject, message.headers or {}, message.data)
    ]


def events_of(sequence: int, subject: str, headers: dict[str, str], payload: bytes) -> list[Stored]:
    """Return the events of a message: the one that it is, or those of the pack."""
    tokens = subject.split(".")
    aggregate = tokens[2] if len(tokens) == 3 else ""
    if not payload.startswith(PACK_TAGS):
        assert "Eda-Pack" not in headers, f"{sequence} says that it is a pack"
        return [Stored(sequence, headers.get("Nats-Msg-Id", ""), aggregate)]
    pack = PackMessage.FromString(payload)
    if pack.codec:
        assert pack.codec == "zstd"
        pack = PackMessage.FromString(zstandard.ZstdDecompressor().decompress(pack.data, max_output_size=pack.size))
    envelopes = [Envelope.FromString(each) for each in pack.events]
    assert headers["Eda-Pack"] == str(len(envelopes)), f"{sequence} has {len(envelopes)} events and says {headers}"
    for token, texts in (
        (tokens[1], {each.type for each in envelopes}),
        (tokens[2], {each.aggregate for each in envelopes}),
    ):
        says = "" if token == "_" else unquote(token)
        assert {says} == texts if len(texts) == 1 else token == "%pack", f"{sequence} has the subject {subject}"
    return [Stored(sequence, each.id, each.aggregate, i, len(envelopes) - 1) for i, each in enumerate(envelopes)]


# --- what is proven --------------------------------------------------------------------------------------------------


def assert_stored_once(acknowledged: Iterable[str], stored: list[Stored]) -> None:
    """Each acknowledged event is in the stream exactly once, and no event is there twice."""
    assert_stored(acknowledged, stored)
    twice = [each for each, n in Counter(each.id for each in stored).items() if n > 1]
    assert not twice, f"{len(twice)} events are stored twice: {twice[:5]}"


def assert_stored(acknowledged: Iterable[str], stored: list[Stored]) -> None:
    """Each acknowledged event is in the stream."""
    ids = {each.id for each in stored}
    lost = [each for each in acknowledged if each not in ids]
    assert not lost, f"{len(lost)} acknowledged events are not stored: {lost[:5]}"


def assert_sent_in_order(runs: Iterable[list[str]], stored: list[Stored]) -> None:
    """Each run's events are stored in the order in which it sent them. `runs`: the ids that each process sent.

    The runs follow one another. A later run sends again what an earlier run did not know to be stored, so the stream
    may have an event more than once.
    """
    ids = [each.id for each in stored]
    at = 0
    for run in runs:
        numbers = {each: number for number, each in enumerate(run)}
        last = -1
        # A run's events end where one comes that it did not send, or one that it had sent earlier.
        while at < len(ids) and (number := numbers.get(ids[at], -1)) > last:
            last = number
            at += 1
    assert at == len(ids), f"{ids[at]} is stored where no run can have sent it: {ids[max(at - 3, 0) : at + 3]}"


def assert_each_handled(lines: list[Line], stored: list[Stored], *, but: Iterable[Place] = ()) -> None:
    """Each event of the stream was handled to the end at least once."""
    ended = {line.place for line in lines if line.what == "end"} | set(but)
    missed = [each.place for each in stored if each.place not in ended]
    assert not missed, f"{len(missed)} stored events were never handled: {missed[:5]}"


def assert_serial_order(lines: list[Line], stored: list[Stored], *, but: Iterable[Place] = ()) -> None:
    """No handler begins while an earlier event of the stream is not handled. `but`: events that ended otherwise."""
    assert_key_order(lines, [each._replace(aggregate="") for each in stored], but=but)


def assert_key_order(lines: list[Line], stored: list[Stored], *, but: Iterable[Place] = ()) -> None:
    """No handler begins while an earlier event of its aggregate is not handled. `but`: events that ended otherwise."""
    before: dict[Place, Place] = {}
    last: dict[str, Place] = {}
    for each in stored:
        if each.place not in but:
            before[each.place] = last.get(each.aggregate, NOWHERE)
            last[each.aggregate] = each.place
    ended = {NOWHERE}
    for line in sorted(lines, key=lambda line: line.ns):
        if line.what == "begin" and line.place in before:
            earlier = before[line.place]
            assert earlier in ended, f"{line.event} began before {earlier} of the same key was handled"
        elif line.what == "end":
            ended.add(line.place)


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
