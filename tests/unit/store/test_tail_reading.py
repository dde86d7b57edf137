"""eda.store._tail_reading: reads an aggregate's events by the sequences that messages name, from answers as bytes."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

import eda
from eda._codec import encode_event
from eda.jetstream._direct_reads import DirectReads
from eda.jetstream.subjects import escape_token
from eda.names import FORGOTTEN
from eda.store._tail_reading import MAX_FOLLOWED, TailReading
from eda.transport._frame import Parser

# The aggregate's versions 1 to 5, at these sequences.
AT = {1: 10, 2: 20, 3: 30, 4: 40, 5: 50}
VERSION = {sequence: version for version, sequence in AT.items()}


def headers_of(
    sequence: int, *, subject: str = "s.t.a", stream: str = "s", earlier: str | None = "0", own: bytes = b""
) -> bytes:
    listed = b"" if earlier is None else b"Eda-Earlier: %b\r\n" % earlier.encode()
    return (
        b"NATS/1.0\r\n%b%bNats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n\r\n"
        % (
            *(own, listed, stream.encode(), subject.encode(), sequence),
            b"2026-01-02T03:04:05Z",
        )
    )


def envelope_of(version: int, *, aggregate: str = "a", type: str = "t") -> bytes:
    return encode_event(eda.Event(type=type, aggregate=aggregate), f"i{version}", "", 1, version)


class Scene:
    """Reads without a server. `sent`: for each write, the end of the inbox and the query of each request."""

    def __init__(self) -> None:
        self.sent: list[list[tuple[str, Any]]] = []
        self.at_once = False
        self.reads = DirectReads(b"_INBOX.x.", b"$JS.API.DIRECT.GET.s", self)
        self.parser = Parser()
        self.parser.register(1, self.reads)

    def request(self, frames: bytes) -> None:
        lines = frames.split(b"\r\n")[:-1]
        write = []
        for head, body in zip(lines[::2], lines[1::2], strict=True):
            verb, subject, reply, size = head.decode().split(" ")
            assert (verb, subject, int(size)) == ("PUB", "$JS.API.DIRECT.GET.s", len(body))
            write.append((reply.removeprefix("_INBOX.x."), msgspec.json.decode(body)))
        self.sent.append(write)

    def begin(self, version: int = 0, *, aggregate: str = "a", token: bytes = b"a") -> TailReading:
        reading = TailReading("s", aggregate, token, version, AT.get(version, 0), version > 0)
        self.reads.add(reading)
        reading.send()
        return reading

    def say(self, tail: str, headers: bytes, payload: bytes = b"") -> None:
        n, n_all = len(headers), len(headers) + len(payload)
        head = f"HMSG _INBOX.x.{tail} 1 {n} {n_all}" if headers else f"MSG _INBOX.x.{tail} 1 {n_all}"
        self.parser.feed(b"%b\r\n%b%b\r\n" % (head.encode(), headers, payload))

    def say_newest(self, earlier: str | None = "0 40 30 20 10", **options: Any) -> None:
        self.say("1-0", headers_of(50, earlier=earlier, **options), envelope_of(5))

    def say_all(self, write: int = -1, *, earlier: str = "0") -> None:
        """Answer the requests of a write."""
        for tail, query in self.sent[write]:
            self.say(tail, headers_of(query["seq"], earlier=earlier), envelope_of(VERSION[query["seq"]]))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def placed(reading: TailReading) -> list[tuple[int, int]]:
    assert reading.is_over
    assert reading.is_complete
    return [(event.version, event.sequence) for event in reading.events()]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_read_when_all_are_named_asks_for_them_in_one_write(scene: Scene, order: tuple[int, ...]) -> None:
    reading = scene.begin()
    scene.say_newest()
    first, rest = scene.sent
    assert first == [("1-0", {"last_by_subj": "s.*.a"})]
    assert rest == [(f"1-{at}", {"seq": sequence}) for at, sequence in enumerate((40, 30, 20, 10), 1)]
    scene.sent[-1] = [rest[at] for at in order]
    scene.say_all()
    assert placed(reading) == list(AT.items())
    event = reading.events()[0]
    assert (event.id, event.type, event.aggregate, event.stream, event.subject) == ("i1", "t", "a", "s", "s.t.a")
    assert event.ack_time == eda.Event(time=1_767_323_045_000_000_000).time


def test_read_when_lists_are_short_goes_on_from_the_oldest(scene: Scene) -> None:
    reading = scene.begin()
    scene.say_newest("0 40")
    scene.say_all(earlier="0 30 20")
    scene.say_all(earlier="0 10")
    scene.say_all()
    assert placed(reading) == list(AT.items())
    assert [len(write) for write in scene.sent] == [1, 1, 2, 1]


@pytest.mark.parametrize("version", range(1, 5))
def test_read_when_there_is_a_baseline_reads_its_event_too(scene: Scene, version: int) -> None:
    reading = scene.begin(version)
    scene.say_newest()
    scene.say_all()
    assert placed(reading) == [(each, AT[each]) for each in range(version + 1, 6)]
    assert reading.base is not None
    assert (reading.base.id, reading.base.version) == (f"i{version}", version)


def test_read_when_nothing_is_new_has_the_baselines_event(scene: Scene) -> None:
    reading = scene.begin(5)
    scene.say_newest()
    assert placed(reading) == []
    assert reading.newest is not None
    assert reading.newest.id == "i5"
    assert len(scene.sent) == 1


@pytest.mark.parametrize("name", ["a.b", 'a"\\b', "é☃", "*", "x" * 500])
def test_read_when_the_name_is_odd_reads_it(scene: Scene, name: str) -> None:
    token = escape_token(name)
    reading = scene.begin(aggregate=name, token=token.encode())
    assert scene.sent[0][0][1] == {"last_by_subj": f"s.*.{token}"}
    scene.say("1-0", headers_of(7, subject=f"s.t.{token}"), envelope_of(1, aggregate=name))
    assert placed(reading) == [(1, 7)]
    assert reading.events()[0].aggregate == name


def test_begin_with_when_the_newest_is_known_asks_for_the_others(scene: Scene) -> None:
    reading = TailReading("s", "a", b"a", 0, 0, False)
    newest = scene.begin()
    scene.say_newest()
    assert newest.newest is not None
    reading.begin_with(newest.newest, headers_of(50, earlier="0 40 30 20 10"))
    assert not reading.is_over
    scene.reads.add(reading)
    reading.send()
    scene.say_all()
    assert placed(reading) == list(AT.items())


def test_read_when_nobody_responds_asks_again_for_those_that_are_missing(scene: Scene) -> None:
    reading = scene.begin()
    scene.say_newest()
    write = scene.sent[-1]
    scene.sent[-1] = write[1::2]
    scene.say_all()
    scene.say(write[0][0], b"NATS/1.0 503\r\n\r\n")
    assert reading.is_over
    assert reading.error is not None
    assert reading.error.retryable
    scene.reads.add(reading)
    reading.send()
    assert scene.sent[-1] == write[::2]
    scene.say_all()
    assert placed(reading) == list(AT.items())


def test_read_when_answers_are_doubled_or_unknown_ignores_them(scene: Scene) -> None:
    reading = scene.begin()
    scene.say_newest()
    for tail in ("1-0", "1-5", f"1-{2**62}", "2-1"):
        scene.say(tail, headers_of(40), envelope_of(4))
    for _ in range(4):
        scene.say("1-1", headers_of(40), envelope_of(4))
    assert not reading.is_over
    scene.say_all()
    assert placed(reading) == list(AT.items())


GOOD = headers_of(40), envelope_of(4)


@pytest.mark.parametrize(
    ("headers", "payload"),
    [
        (headers_of(39), envelope_of(4)),
        (headers_of(40), envelope_of(3)),
        (headers_of(40), envelope_of(0)),
        (headers_of(40), envelope_of(4, aggregate="b")),
        (headers_of(40), envelope_of(4, aggregate="")),
        (headers_of(40, subject="s.t.b"), envelope_of(4)),
        (headers_of(40, subject="s.t.xa"), envelope_of(4)),
        (headers_of(40, subject="s.a"), envelope_of(4)),
        (headers_of(40, subject="s"), envelope_of(4)),
        (headers_of(40, subject="a"), envelope_of(4)),
        (headers_of(40, subject="s.t.u.a"), envelope_of(4)),
        (b"NATS/1.0 408 Bad Request\r\n\r\n", b""),
        (b"", b'{"error": {}}'),
        (b"NATS/1.0\r\n\r\n", envelope_of(4)),
        (headers_of(40), b"\xff"),
        *((GOOD[0][:at], GOOD[1]) for at in range(len(GOOD[0]))),
        *((GOOD[0], GOOD[1][:at]) for at in range(len(GOOD[1]))),
    ],
)
def test_read_when_an_answer_is_not_the_event_ends_without_a_result(
    scene: Scene, headers: bytes, payload: bytes
) -> None:
    reading = scene.begin()
    scene.say_newest()
    scene.say("1-1", headers, payload)
    assert (reading.is_over, reading.is_complete, reading.error, reading.missing()) == (True, False, None, [])
    scene.say_all()
    assert not reading.is_complete


NOT_THERE = b"NATS/1.0 404 Message Not Found\r\n\r\n", b""
OF_MIRROR = headers_of(40, stream="m", own=b"Nats-Stream: s\r\n"), envelope_of(4)


@pytest.mark.parametrize("answer", [NOT_THERE, OF_MIRROR], ids=["not there", "of a mirror"])
@pytest.mark.parametrize("earlier", ["0 40 30 20 10", "0 40"])
def test_read_when_a_message_is_missing_goes_on_with_it_from_elsewhere(
    scene: Scene, answer: tuple[bytes, bytes], earlier: str
) -> None:
    reading = scene.begin()
    scene.say_newest(earlier)
    for _ in range(2):
        scene.say("1-1", *answer)
    scene.sent[-1] = scene.sent[-1][1:]
    scene.say_all()
    assert (reading.is_over, reading.is_complete, reading.missing()) == (True, False, [(1, 4, 40)])
    other = Scene()
    found = other.begin()
    other.say("1-0", headers_of(40, earlier="0 30 20 10"), envelope_of(4))
    assert found.newest is not None
    reading.put(1, found.newest, headers_of(40, earlier="0 30 20 10"))
    with pytest.raises(ValueError, match="1 is not missing"):
        reading.put(1, found.newest, b"")
    if not reading.is_over:
        reading.send()
        scene.say_all()
    assert placed(reading) == list(AT.items())


def test_read_when_the_user_has_headers_like_the_servers_believes_only_the_server(scene: Scene) -> None:
    own = b"Nats-Stream: m\r\nNats-Subject: s.t.b\r\nNats-Sequence: 3\r\nNats-Time-Stamp: 1\r\nEda-Earlier: x\r\n"
    reading = scene.begin()
    scene.say_newest(own=own)
    scene.say_all()
    assert placed(reading) == list(AT.items())


def test_read_when_a_mirror_answers_first_says_so(scene: Scene) -> None:
    for n, (stream, own) in enumerate(itertools.product(("m", "sx", ""), (b"", b"Nats-Stream: s\r\n")), 1):
        reading = scene.begin()
        scene.say(f"{n}-0", headers_of(50, stream=stream, own=own), envelope_of(5))
        assert (reading.is_over, reading.is_complete, reading.is_foreign) == (True, False, True)


@pytest.mark.parametrize(
    "earlier",
    [None, "", "0", "0 50", "0 60", "0 40 40", "0 40 30 35", "9999x", "0 40 30 10 20", "0 0 40", "-1 40", "0 40 "],
)
def test_read_when_the_list_is_missing_or_wrong_asks_for_nothing_wrong(scene: Scene, earlier: str | None) -> None:
    reading = scene.begin()
    scene.say_newest(earlier)
    assert (reading.is_over, reading.is_complete) == (True, False)
    assert len(scene.sent) == 1


@pytest.mark.parametrize(
    ("version", "type"), [(0, "t"), (MAX_FOLLOWED + 2, "t"), (2**63 - 1, "t"), (-1, "t"), (1, FORGOTTEN)]
)
def test_read_when_the_newest_can_not_be_followed_ends_without_a_result(scene: Scene, version: int, type: str) -> None:
    reading = scene.begin()
    envelope = encode_event(eda.Event(type=type, aggregate="a"), "i", "", 1, version)
    scene.say("1-0", headers_of(50, earlier="9999 5"), envelope)
    assert (reading.is_over, reading.is_complete) == (True, False)


def test_read_when_there_are_as_many_as_possible_reads_them(scene: Scene) -> None:
    n = MAX_FOLLOWED + 2  # with the baseline's event
    reading = TailReading("s", "a", b"a", 1, 1, True)
    scene.reads.add(reading)
    reading.send()
    scene.say("1-0", headers_of(n, earlier="9999"), envelope_of(n))
    while not reading.is_over:
        for tail, query in scene.sent[-1]:
            scene.say(tail, headers_of(query["seq"], earlier="9999"), envelope_of(query["seq"]))
    assert placed(reading) == [(each, each) for each in range(2, n + 1)]
    assert reading.base is not None
