"""eda.jetstream.direct_get against a wire that notes the requests and passes the answers that a test gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import eda
from eda.jetstream import direct_get
from eda.jetstream.direct_get import DirectGet, Reading
from eda.jetstream.stored_message import n_left, up_to
from eda.transport._frame import Parser, Sink
from eda.transport._waits import Waits
from helpers import until

SERVER = (
    b"\r\nNats-Stream: s\r\nNats-Subject: s.t.a\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2026-01-02T03:04:05Z\r\n\r\n"
)
MESSAGE = b"NATS/1.0" + SERVER
END = b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 3\r\nNats-Last-Sequence: 7\r\nNats-UpTo-Sequence: 9\r\n\r\n"


def status(line: bytes) -> bytes:
    return b"NATS/1.0 " + line + b"\r\n\r\n"


class FakeWire:
    """A connection without a server. `sent`: the number, subject and body of each request."""

    def __init__(self) -> None:
        self.on_lost: list[Callable[[], None]] = []
        self.on_restored: list[Callable[[], None]] = []
        self.on_refused: list[Callable[[str, str], None]] = []
        self.on_closed: list[Callable[[], None]] = []
        self.is_up, self.is_closed, self.closing, self.max_payload = True, False, False, 1000
        self.out = self
        self.at_once = False
        self.loop = asyncio.get_running_loop()
        self.waits = Waits(self.loop, asyncio.current_task, asyncio.CancelledError)
        self.parser = Parser()
        self.sent: list[tuple[bytes, bytes, Any]] = []

    def new_inbox(self) -> str:
        return "_INBOX.x"

    async def attach(self, subject: str, sink: Sink) -> Any:
        assert subject == "_INBOX.x.*"
        self.parser.register(1, sink)
        return SimpleNamespace()

    def release(self, subscription: Any) -> None:
        pass

    async def detach(self, subscription: Any) -> None:
        pass

    def request(self, data: bytes) -> None:
        lines = data.split(b"\r\n")[:-1]
        for head, body in zip(lines[::2], lines[1::2], strict=True):
            verb, subject, reply, size = head.split(b" ")
            assert (verb, int(size)) == (b"PUB", len(body))
            self.sent.append((reply.removeprefix(b"_INBOX.x."), subject, msgspec.json.decode(body)))

    def receive(self, tail: bytes, headers: bytes, payload: bytes = b"") -> None:
        n, n_all = len(headers), len(headers) + len(payload)
        head = b"HMSG _INBOX.x.%b 1 %d %d" % (tail, n, n_all) if headers else b"MSG _INBOX.x.%b 1 %d" % (tail, n_all)
        self.parser.feed(b"%b\r\n%b%b\r\n" % (head, headers, payload))

    def lose(self) -> None:
        self.is_up = False
        for call in self.on_lost:
            call()


class Scene:
    def __init__(self) -> None:
        self.wire = FakeWire()
        self.direct = DirectGet(SimpleNamespace(wire=self.wire, prefix="$JS.API"), "s")  # type: ignore[arg-type]

    def say(self, headers: bytes, payload: bytes = b"", request: int = -1) -> None:
        """Answer a request, by default the latest."""
        self.wire.receive(self.wire.sent[request][0], headers, payload)

    async def requests(self, n: int) -> None:
        await until(lambda: len(self.wire.sent) >= n, 2)


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(direct_get, "FIRST_ATTEMPT_S", 0.05)
    monkeypatch.setattr(direct_get, "FIRST_PAUSE_S", 0.002)
    scene = Scene()
    await scene.direct.open()
    yield scene
    assert not len(scene.direct._reads)
    await scene.direct.close()
    wire = scene.wire
    assert [wire.on_lost, wire.on_restored, wire.on_refused, wire.on_closed] == [[], [], [], []]


async def test_done_when_the_message_is_there_returns_it(scene: Scene) -> None:
    reading = scene.direct.begin_at(7)
    assert scene.wire.sent == [(b"1-0", b"$JS.API.DIRECT.GET.s", {"seq": 7})]
    scene.say(b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Subject: forged" + SERVER, b"data")
    scene.say(MESSAGE, b"a second answer")
    (found,) = await scene.direct.done(reading)
    assert (found.subject, found.sequence, found.payload) == ("s.t.a", 7, b"data")


async def test_done_when_there_is_no_message_returns_nothing(scene: Scene) -> None:
    readings = [scene.direct.begin_at(7), scene.direct.begin_leader_at(7)]
    scene.say(status(b"404 Message Not Found"), request=0)
    scene.say(b"", b'{"error": {"code": 404, "err_code": 10037, "description": "no message found"}}', request=1)
    assert [await scene.direct.done(each) for each in readings] == [[], []]


async def test_done_when_it_is_a_batch_returns_it_at_its_end(scene: Scene) -> None:
    reading = scene.direct.begin_next_of("s.t.a", from_sequence=1, n=2)
    task = asyncio.create_task(scene.direct.done(reading))
    for _ in range(2):
        scene.say(MESSAGE)
        await asyncio.sleep(0)
        assert not task.done()
    scene.say(END)
    assert [each.sequence for each in await task] == [7, 7]
    assert (n_left(reading.end), up_to(reading.end)) == (3, 9)


async def test_done_when_nobody_responds_asks_again(scene: Scene) -> None:
    task = asyncio.create_task(scene.direct.done(scene.direct.begin_at(7)))
    for n in (1, 2):
        await scene.requests(n)
        scene.say(status(b"503"))
    await scene.requests(3)
    scene.say(MESSAGE, b"late", request=0)  # an attempt that is over
    scene.say(MESSAGE, b"data")
    assert [each.payload for each in await task] == [b"data"]
    assert [body for _, _, body in scene.wire.sent] == [{"seq": 7}] * 3


async def test_done_when_no_answer_comes_asks_again(scene: Scene) -> None:
    task = asyncio.create_task(scene.direct.done(scene.direct.begin_next_of("s.t.a", from_sequence=1, n=5)))
    await asyncio.sleep(0)
    scene.say(MESSAGE, b"first")
    await scene.requests(2)
    scene.say(MESSAGE, b"again")
    scene.say(END)
    assert [each.payload for each in await task] == [b"again"]


async def test_wait_once_when_answers_to_other_reads_come_waits_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_get, "FIRST_ATTEMPT_S", 0.4)
    readings = [scene.direct.begin_at(7), scene.direct.begin_at(7)]
    tasks = [asyncio.create_task(scene.direct.wait_once(each)) for each in readings]
    for _ in range(6):
        await asyncio.sleep(0.1)
        other = scene.direct.begin_at(8)
        scene.say(MESSAGE)
        scene.direct.forget(other)
    assert not any(task.done() for task in tasks)
    scene.say(MESSAGE, request=0)
    await asyncio.wait(tasks, timeout=2)
    assert [each.error is None for each in readings] == [True, False]
    assert len(scene.wire.sent) == 8  # nothing is sent again


async def test_done_when_nobody_ever_responds_raises(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_get, "READ_TIMEOUT_S", 0.1)
    with pytest.raises(eda.Timeout, match="a read of stream s"):
        await scene.direct.done(scene.direct.begin_at(7))


@pytest.mark.parametrize("line", [b"408 Empty Request", b"413 Too Many Results", b"400 Bad Request", b"junk"])
async def test_done_when_the_server_refuses_raises(scene: Scene, line: bytes) -> None:
    reading = scene.direct.begin_last_of_each("s.*.a")
    scene.say(status(line))
    with pytest.raises(eda.ServerError) as raised:
        await scene.direct.done(reading)
    assert raised.value.code == (int(line[:3]) if line != b"junk" else 500)
    assert not raised.value.retryable
    assert len(scene.wire.sent) == 1


@pytest.mark.parametrize(
    ("headers", "payload"),
    [
        (b"NATS/1.0\r\n\r\n", b"x"),
        (MESSAGE.replace(b"Sequence: 7", b"Sequence: x"), b"x"),
        (MESSAGE.replace(b"s.t.a", b"\xff"), b"x"),
        (b"nonsense", b"x"),
        (b"", b""),
        (b"", b"{}"),
        (b"", b"[" * 100_000),
        (b"", b'{"message": {"seq": "x"}}'),
        (status(b"204 EOB"), b""),
        (END.replace(b"Pending: 3", b"Pending: x"), b""),
        (END.replace(b"UpTo-Sequence: 9", b"UpTo-Sequence: "), b""),
    ],
)
async def test_done_when_the_answer_makes_no_sense_raises(scene: Scene, headers: bytes, payload: bytes) -> None:
    reading = scene.direct.begin_last_of_each("s.*.a")
    scene.say(headers, payload)
    with pytest.raises(eda.ServerError, match="makes no sense"):
        await scene.direct.done(reading)


async def test_done_when_a_batch_has_too_many_messages_raises(scene: Scene) -> None:
    reading = scene.direct.begin_next_of("s.t.a", from_sequence=1, n=2)
    for _ in range(3):
        scene.say(MESSAGE)
    with pytest.raises(eda.ServerError, match="more than 2 messages"):
        await scene.direct.done(reading)


async def test_done_when_an_unknown_answer_comes_ignores_it(scene: Scene) -> None:
    reading = scene.direct.begin_at(7)
    for tail in (b".", b"1", b"1-", b"-0", b"2-0", b"x-0", b"1-x", b"1--0", b"\xff-0", b"9" * 30 + b"-0"):
        scene.wire.receive(tail, MESSAGE)
    assert not reading.is_over
    scene.direct.forget(reading)


@pytest.mark.parametrize(
    ("kind", "subject", "refused"),
    [
        ("publish", "$JS.API.DIRECT.GET.s", [0]),
        ("publish", "$JS.API.STREAM.MSG.GET.s", [1]),
        ("subscription", "_INBOX.x.*", [0, 1]),
        ("publish", "other", []),
        ("subscription", "other", []),
    ],
)
async def test_done_when_the_user_may_not_read_raises(
    scene: Scene, kind: str, subject: str, refused: list[int]
) -> None:
    readings = [scene.direct.begin_at(7), scene.direct.begin_leader_at(7)]
    for call in scene.wire.on_refused:
        call(kind, subject)
    for at, reading in enumerate(readings):
        if at in refused:
            with pytest.raises(eda.ServerError, match="no permission") as raised:
                await scene.direct.done(reading)
            assert (raised.value.code, raised.value.retryable) == (403, False)
        else:
            scene.say(MESSAGE, request=at)
            assert len(await scene.direct.done(reading)) == 1


async def test_done_when_the_request_is_too_large_raises_and_sends_nothing(scene: Scene) -> None:
    reading = scene.direct.begin_last("s.t." + "a" * 1000)
    with pytest.raises(eda.ConfigError, match="max_payload of 1000"):
        await scene.direct.done(reading)
    assert scene.wire.sent == []


async def test_done_when_the_connection_is_lost_asks_again(scene: Scene) -> None:
    task = asyncio.create_task(scene.direct.done(scene.direct.begin_at(7)))
    await asyncio.sleep(0)
    scene.wire.lose()
    meanwhile = scene.direct.begin_at(8)
    other = asyncio.create_task(scene.direct.done(meanwhile))
    await asyncio.sleep(0.02)
    assert len(scene.wire.sent) == 1
    scene.wire.is_up = True
    await scene.requests(3)
    for at in (1, 2):
        scene.say(MESSAGE, request=at)
    assert [len(await each) for each in (task, other)] == [1, 1]


async def test_done_when_the_connection_stays_lost_raises(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_get, "READ_TIMEOUT_S", 0.05)
    reading = scene.direct.begin_at(7)
    scene.wire.lose()
    with pytest.raises(eda.Timeout):
        await scene.direct.done(reading)


@pytest.mark.parametrize("how", ["connection", "closing", "reads", "reads while lost", "while lost"])
async def test_done_when_it_is_closed_raises(scene: Scene, how: str) -> None:
    task = asyncio.create_task(scene.direct.done(scene.direct.begin_at(7)))
    await asyncio.sleep(0)
    wire = scene.wire
    if how == "reads":
        await scene.direct.close()
    elif how == "connection":
        for call in list(wire.on_closed):
            call()
    else:
        wire.lose()
        await asyncio.sleep(0.01)
        if how == "reads while lost":
            await scene.direct.close()
        wire.is_closed, wire.closing = how == "while lost", how == "closing"
    async with asyncio.timeout(1):
        with pytest.raises(eda.Closed):
            await task


async def test_done_when_it_was_closed_before_raises(scene: Scene) -> None:
    await scene.direct.close()
    async with asyncio.timeout(1):
        with pytest.raises(eda.Closed):
            await scene.direct.done(scene.direct.begin_at(7))
    assert scene.wire.sent == []


@pytest.mark.parametrize("when", ["waiting", "pausing", "lost"])
async def test_done_when_the_caller_is_cancelled_leaves_nothing(scene: Scene, when: str) -> None:
    reading = scene.direct.begin_at(7)
    task = asyncio.create_task(scene.direct.done(reading))
    await asyncio.sleep(0)
    if when == "pausing":
        scene.say(status(b"503"))
        await asyncio.sleep(0)
    elif when == "lost":
        scene.wire.lose()
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not len(scene.direct._reads)
    scene.say(MESSAGE)  # the answer comes nevertheless
    assert (reading.messages, reading.waiter) == ([], None)


async def test_forget_when_a_read_was_begun_ignores_the_answer(scene: Scene) -> None:
    reading: Reading = scene.direct.begin_at(7)
    scene.direct.forget(reading)
    scene.direct.forget(reading)
    scene.say(MESSAGE)
    assert reading.messages == []
