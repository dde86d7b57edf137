"""_outbound.Outbound: one write per turn or at 64 KiB, in order; what is kept without a connection and what not."""

from __future__ import annotations

import copy
import io
import sys
from typing import Any

import pytest

from eda._data import Bytes
from eda._event import Event
from eda.publishing._stream_sender import Destination, StreamSender
from eda.publishing._window import PublishWindow
from eda.transport._frame import Collector, Parser
from eda.transport._outbound import Outbound

CHUNK = 64 * 1024


class Waiter:
    """Stands for the future that a publish settles."""

    def done(self) -> bool:
        return False

    def set_exception(self, error: BaseException) -> None:
        """Take the outcome, and nothing else."""


class Wire:
    """An Outbound with its loop and its transport written out: turns are taken by hand."""

    def __init__(self, *, connected: bool = True) -> None:
        self.n_scheduled = 0
        self.written: list[bytes | memoryview] = []
        self.out = Outbound(self.schedule)
        self.sender = StreamSender(PublishWindow(10_000), self.out, b"inbox.", "c", print)
        self.target = Destination("s", 2**20)
        if connected:
            self.out.set_write(self.written.append)

    def schedule(self) -> None:
        self.n_scheduled += 1

    def publish(self, id: str, size: int = 0) -> None:
        self.sender.publish(self.target, Event(id=id, data=Bytes(bytes(size))), Waiter(), 5.0, 30.0)

    def fill(self) -> int:
        """Publish until a chunk is full and written; returns how many that took."""
        n = 0
        while not self.written:
            self.publish(f"i{n}", 1000)
            n += 1
        return n

    @property
    def text(self) -> bytes:
        return b"".join(self.written)


def ids_in(text: bytes) -> list[bytes]:
    """Return the ids of the publishes in these bytes, by the parser's own reading."""
    parser, sink = Parser(), Collector()
    parser.register(0, sink)
    # As the server would pass them on: HPUB subject reply sizes > HMSG subject sid reply sizes.
    parser.feed(text.replace(b"HPUB s._._ ", b"HMSG s._._ 0 "))
    return [frame[2].split(b"Nats-Msg-Id: ")[1].split(b"\r\n")[0] for frame in sink.frames]


# --- one write per turn ----------------------------------------------------------------------------------------------


def test_flush_when_many_commands_came_writes_them_once_in_order() -> None:
    wire = Wire()
    commands = [b"PUB a%d 0\r\n\r\n" % i for i in range(100)]
    for command in commands:
        wire.out.command(command)
    assert (wire.n_scheduled, wire.written) == (1, [])
    wire.out.flush()
    assert wire.written == [b"".join(commands)]


def test_flush_when_many_publishes_came_writes_them_once_in_order() -> None:
    wire = Wire()
    for i in range(100):
        wire.publish(f"i{i}")
    assert (wire.n_scheduled, wire.written) == (1, [])
    wire.out.flush()
    assert len(wire.written) == 1
    assert ids_in(wire.text) == [b"i%d" % i for i in range(100)]


def test_flush_when_both_came_writes_commands_first_in_one_write() -> None:
    wire = Wire()
    wire.publish("i1")
    wire.out.command(b"PING\r\n")
    wire.publish("i2")
    wire.out.command(b"PONG\r\n")
    wire.out.flush()
    (text,) = map(bytes, wire.written)
    assert text.startswith(b"PING\r\nPONG\r\nHPUB ")
    assert ids_in(text.removeprefix(b"PING\r\nPONG\r\n")) == [b"i1", b"i2"]


def test_flush_when_each_turn_has_something_is_scheduled_once_a_turn() -> None:
    wire = Wire()
    for turn in range(1, 6):
        for _ in range(10):
            wire.out.command(b"PING\r\n")
            wire.publish(f"i{turn}")
        assert wire.n_scheduled == turn
        wire.out.flush()
        assert len(wire.written) == wire.out.n_writes == turn


def test_flush_when_there_is_nothing_writes_nothing() -> None:
    wire = Wire()
    wire.out.flush()
    wire.out.command(b"PING\r\n")
    wire.out.flush()
    wire.out.flush()
    assert (wire.written, wire.out.n_writes) == ([b"PING\r\n"], 1)


def test_size_when_asked_tells_what_waits() -> None:
    wire = Wire()
    assert wire.out.size == 0
    wire.out.command(b"PING\r\n")
    assert wire.out.size == 6
    wire.publish("i1", 1000)
    assert wire.out.size > 1006
    wire.out.flush()
    assert wire.out.size == 0


# --- at 64 KiB -------------------------------------------------------------------------------------------------------


def test_command_when_64_kib_have_gathered_is_written_at_once() -> None:
    wire = Wire()
    wire.out.command(b"a" * (CHUNK - 1))
    assert wire.written == []
    wire.out.command(b"b")
    assert wire.written == [b"a" * (CHUNK - 1) + b"b"]


def test_publish_when_64_kib_have_gathered_is_written_at_once() -> None:
    wire = Wire()
    wire.out.command(b"PING\r\n")
    n = wire.fill()
    assert CHUNK <= len(wire.text) < CHUNK + 2000
    assert ids_in(wire.text.removeprefix(b"PING\r\n")) == [b"i%d" % i for i in range(n)]


def test_flush_when_64_kib_were_written_before_writes_only_the_rest() -> None:
    wire = Wire()
    wire.out.command(b"a" * 10)
    wire.out.command(b"b" * CHUNK)
    wire.out.command(b"c")
    wire.out.flush()
    assert wire.written == [b"a" * 10 + b"b" * CHUNK, b"c"]


@pytest.mark.parametrize("size", [CHUNK, 3 * CHUNK, 2**23])
def test_command_when_it_is_large_alone_is_written_whole(size: int) -> None:
    wire = Wire()
    wire.out.command(b"x" * size)
    assert wire.written == [b"x" * size]


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_chunk_when_the_transport_keeps_it_does_not_change_while_others_are_written() -> None:
    wire = Wire()
    copies: list[bytes] = []
    n = 0
    while len(wire.written) < 100:  # more than are kept for the next ones
        wire.publish(f"i{n}", 1000)
        n += 1
        copies += [bytes(chunk) for chunk in wire.written[len(copies) :]]
    assert any(isinstance(chunk, memoryview) and chunk.readonly for chunk in wire.written)
    assert list(map(bytes, wire.written)) == copies
    assert ids_in(wire.text) == [b"i%d" % i for i in range(n)]


def test_chunk_when_nobody_keeps_it_is_used_again_without_what_was_in_it() -> None:
    wire = Wire()
    ids = []
    for i in range(2000):
        wire.publish(f"i{i}", 1000 + i % 7)
        for chunk in wire.written:
            ids += ids_in(bytes(chunk))
        wire.written.clear()
        wire.sender.fail(i + 1, RuntimeError())  # settled: its chunk may go
    wire.out.flush()
    for chunk in wire.written:
        ids += ids_in(bytes(chunk))
    assert ids == [b"i%d" % i for i in range(2000)]


def test_chunk_when_a_publish_of_it_is_sent_again_has_the_same_bytes() -> None:
    wire = Wire()
    n = wire.fill()
    first = bytes(wire.written.pop())
    for i in range(200):
        wire.publish(f"j{i}", 1000)
    for seq in range(1, n + 1):
        wire.sender.resend(seq, 5.0)
    wire.out.flush()
    assert wire.text.endswith(first)


def test_chunk_when_it_is_asked_for_as_a_buffer_is_read_only_and_of_plain_bytes() -> None:
    wire = Wire()
    wire.fill()
    (view,) = wire.written
    assert isinstance(view, memoryview)
    assert (view.readonly, view.format, view.itemsize, view.ndim, view.c_contiguous) == (True, "B", 1, 1, True)
    assert view[5:].tobytes() == bytes(view)[5:]
    with pytest.raises(TypeError):
        copy.copy(view.obj)
    with pytest.raises(TypeError, match="read-write"):
        io.BytesIO(b"x" * len(view)).readinto(view.obj)  # type: ignore[arg-type]


def test_chunk_when_many_are_written_leaves_no_reference_behind() -> None:
    before = sys.getrefcount(None)
    for _ in range(3):
        wire = Wire()
        wire.out.set_write(lambda data: None)
        for i in range(3000):
            wire.publish(f"i{i}", 48_000)
            wire.out.flush()
            wire.sender.fail(i + 1, RuntimeError())
    assert abs(sys.getrefcount(None) - before) < 1000


@pytest.mark.parametrize("size", [0, 40_000, 48_000, 50_000, 65_536, 200_000, 1_000_000])
def test_flush_when_a_publish_of_any_size_goes_with_a_command_writes_both_in_one(size: int) -> None:
    wire = Wire()
    for i in range(3):
        wire.written.clear()
        wire.out.command(b"PING\r\n")
        wire.publish(f"i{i}", size)
        wire.out.flush()
        (text,) = map(bytes, wire.written)
        assert text.startswith(b"PING\r\nHPUB ")
        assert ids_in(text.removeprefix(b"PING\r\n")) == [b"i%d" % i]


# --- without a connection --------------------------------------------------------------------------------------------


def test_connect_when_commands_were_kept_writes_them_in_order() -> None:
    wire = Wire(connected=False)
    wire.out.command(b"PUB ack1 0\r\n\r\n")
    wire.out.flush()
    wire.out.command(b"PUB ack2 0\r\n\r\n")
    wire.out.flush()
    assert wire.out.size > 0
    n_scheduled = wire.n_scheduled
    wire.out.set_write(wire.written.append)
    assert wire.n_scheduled == n_scheduled + 1
    wire.out.command(b"PING\r\n")
    wire.out.flush()
    assert wire.written == [b"PUB ack1 0\r\n\r\nPUB ack2 0\r\n\r\nPING\r\n"]


def test_connect_when_publishes_were_flushed_before_does_not_write_them() -> None:
    wire = Wire(connected=False)
    wire.publish("i1")
    wire.out.command(b"PING\r\n")
    wire.out.flush()
    wire.out.set_write(wire.written.append)
    wire.publish("i2")
    wire.out.flush()
    (text,) = wire.written
    assert ids_in(text.removeprefix(b"PING\r\n")) == [b"i2"]


def test_connection_when_lost_between_turns_keeps_commands_and_drops_publishes() -> None:
    wire = Wire()
    wire.publish("i1")
    wire.out.command(b"PING\r\n")
    wire.out.set_write(None)
    wire.out.flush()
    assert (wire.written, wire.out.size) == ([], 6)
    wire.out.set_write(wire.written.append)
    wire.out.flush()
    assert wire.written == [b"PING\r\n"]


def test_connection_when_lost_between_turns_drops_requests_and_keeps_commands() -> None:
    """A pull that the next connection sent would bring events that nobody has room for."""
    wire = Wire()
    wire.out.request(b"PUB pull1 0\r\n\r\n")
    wire.out.command(b"PUB ack1 0\r\n\r\n")
    wire.out.set_write(None)
    wire.out.request(b"PUB pull2 0\r\n\r\n")
    wire.out.flush()
    wire.out.request(b"PUB pull3 0\r\n\r\n")
    wire.out.set_write(wire.written.append)
    wire.out.request(b"PUB pull4 0\r\n\r\n")
    wire.out.flush()
    assert wire.written == [b"PUB ack1 0\r\n\r\nPUB pull4 0\r\n\r\n"]
    assert wire.out.size == 0


def test_requests_when_there_is_no_connection_do_not_gather() -> None:
    wire = Wire(connected=False)
    for _ in range(100):
        wire.out.request(b"x" * CHUNK)
        wire.out.flush()
    assert (wire.out.size, wire.out.n_writes) == (0, 0)


def test_flush_when_all_kinds_came_writes_them_in_one() -> None:
    wire = Wire()
    wire.publish("i1")
    wire.out.request(b"PUB pull 0\r\n\r\n")
    wire.out.command(b"PING\r\n")
    wire.out.flush()
    (text,) = wire.written
    assert text.startswith(b"PING\r\nPUB pull 0\r\n\r\nHPUB ")


def test_request_when_64_kib_have_gathered_is_written_at_once() -> None:
    wire = Wire()
    wire.out.request(b"a" * (CHUNK - 1))
    assert wire.written == []
    wire.out.request(b"b")
    assert wire.text == b"a" * (CHUNK - 1) + b"b"


@pytest.mark.parametrize("request_", [None, "text", bytearray(b"x"), 5])
def test_request_when_it_is_no_bytes_is_refused(request_: Any) -> None:
    with pytest.raises(TypeError):
        Wire().out.request(request_)


def test_publishes_when_there_is_no_connection_do_not_gather() -> None:
    wire = Wire(connected=False)
    for i in range(1000):
        wire.publish(f"i{i}", 1000)
        assert wire.out.size < CHUNK
    assert wire.out.n_writes == 0


def test_publish_when_dropped_can_be_sent_again_byte_for_byte() -> None:
    wire, other = Wire(connected=False), Wire()
    for each in (wire, other):
        each.sender.publish(each.target, Event(id="i1", time=5, data=Bytes(b"d")), Waiter(), 5.0, 30.0)
        each.out.flush()
    wire.out.set_write(wire.written.append)
    wire.sender.resend(1, 5.0)
    wire.out.flush()
    assert wire.written == other.written


def test_commands_when_64_kib_have_gathered_without_a_connection_are_kept() -> None:
    wire = Wire(connected=False)
    for _ in range(3):
        wire.out.command(b"x" * CHUNK)
    wire.out.flush()
    wire.out.set_write(wire.written.append)
    wire.out.flush()
    assert wire.text == b"x" * 3 * CHUNK


def test_connect_when_nothing_was_kept_schedules_nothing() -> None:
    wire = Wire(connected=False)
    wire.out.set_write(wire.written.append)
    assert wire.n_scheduled == 0


# --- the rest --------------------------------------------------------------------------------------------------------


def test_paused_when_told_is_kept_until_told_or_connected() -> None:
    wire = Wire()
    assert not wire.out.paused
    wire.out.set_paused(True)
    assert wire.out.paused
    wire.out.set_paused(False)
    assert not wire.out.paused
    wire.out.set_paused(True)
    wire.out.set_write(wire.written.append)
    assert not wire.out.paused


def test_write_when_it_raises_passes_the_error_on_and_the_next_turn_works() -> None:
    wire = Wire()

    def fail(data: bytes) -> None:
        raise ConnectionResetError

    wire.out.set_write(fail)
    wire.out.command(b"lost")
    with pytest.raises(ConnectionResetError):
        wire.out.flush()
    wire.out.set_write(wire.written.append)
    wire.out.command(b"PING\r\n")
    assert wire.n_scheduled == 2
    wire.out.flush()
    assert wire.written == [b"PING\r\n"]


def test_write_when_it_adds_a_command_itself_has_it_written_next() -> None:
    wire = Wire()

    def write(data: bytes) -> None:
        if not wire.written:
            wire.out.command(b"second")
        wire.written.append(data)

    wire.out.set_write(write)
    wire.out.command(b"first")
    wire.out.flush()
    assert wire.n_scheduled == 2
    wire.out.flush()
    assert wire.written == [b"first", b"second"]


@pytest.mark.parametrize("command", [None, "text", bytearray(b"x"), 5])
def test_command_when_it_is_no_bytes_is_refused(command: Any) -> None:
    with pytest.raises(TypeError):
        Wire().out.command(command)
