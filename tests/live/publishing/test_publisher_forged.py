"""Forged messages to a publisher's inbox, which must settle no events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

import eda
from helpers import Admin, Connect, Logged, until
from support.publishing.sent import Outcomes, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy

N = 300
GO_ON = b'{"type":"ack","seq":0,"msgs":499}'  # which no server says


@dataclass
class Held:
    """A publisher with 300 stored events whose answers were lost."""

    pub: eda.Publisher
    conn: eda.Conn
    admin: Admin
    inbox: str
    batch: str  # prefix of the batch's reply subjects; empty in window mode
    first: int  # the sequence of the first event

    async def forge(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Send the client a message, and wait until the client has read it."""
        await self.admin.client.publish(subject, payload, headers=headers)
        await self.admin.flush()
        assert self.conn._lifetime._services is not None
        await self.conn._lifetime._services.wire.barrier(5)


@pytest.fixture
async def held(
    connect: Connect, admin: Admin, server: eda.EmbeddedServer, stream: str, request: pytest.FixtureRequest
) -> AsyncIterator[Held]:
    mode = request.param
    outcomes = Outcomes()
    async with FaultyProxy(server.port) as proxy:
        conn = await connect(proxy.url(server.url))
        async with conn.publisher(stream, mode=mode, ack_timeout_s=60, **outcomes.callbacks) as pub:
            await pub.send(eda.Event(id="first"))
            await pub.flush()
            core = pub._core
            assert core is not None
            dropped: list[bytes] = []

            def drop(message: bytes) -> bool:
                if not message.startswith(b"MSG _INBOX.") or message.endswith(b"%b\r\n" % GO_ON):
                    return False
                dropped.append(message)
                return True

            proxy.drop_if = drop
            await pub.send_many(numbered(N))
            if mode == "fast":
                # The first event of a batch needs its answer before the others are written. The server's own answers
                # are dropped all the time: the last one may follow at once.
                await until(lambda: dropped)
                subject = dropped[0].split(b" ")[1].decode()
                await admin.client.publish(subject, GO_ON)
                await until(lambda: core.n_waiting == 0)
                await until(lambda: b'"count"' in dropped[-1])
                batch = subject.rsplit(".", 3)[0]
                inbox = batch.rsplit(".", 3)[0]
            else:
                await until(lambda: len(dropped) == N)
                inbox, batch = dropped[0].split(b" ")[1].decode().rpartition(".")[0], ""
            proxy.drop_if = None
            before = pub.stats()
            assert before.pending == N
            yield Held(pub, conn, admin, inbox, batch, core.oldest)
            assert pub.stats() == before, "something was settled"
            assert (proxy.n_accepted, conn.state) == (1, "connected"), "the connection did not survive it"
            proxy.cut()
            await asyncio.wait_for(pub.flush(), 10)
            ids = ["first", *(event.id for event in numbered(N))]
            outcomes.check(ids, await stored_ids(server.url, stream), pub.stats())
            assert not outcomes.failed


both = pytest.mark.parametrize("held", ["fast", "window"], indirect=True)
fast = pytest.mark.parametrize("held", ["fast"], indirect=True)
window = pytest.mark.parametrize("held", ["window"], indirect=True)

GARBAGE = [
    b"",
    b" ",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b"5",
    b"\xff\xfe",
    b'{"seq":5}',
    b'{"stream":5,"seq":5}',
    b'{"stream":"',
    b'{"stream":"STREAM"',
    b'{"stream":"STREAM","seq":',
    b'{"stream":"STREAM","seq":0}',
    b'{"stream":"STREAM","seq":-3}',
    b'{"stream":"STREAM","seq":1e3}',
    b'{"stream":"STREAM","seq":99999999999999999999999}',
    b'{"stream":"STREAM","seq":7',
    b'{"stream":"\\u0053TREAM","seq":0}',
    b'{"error":5}',
    b'{"error":null}',
    b'{"type":"ack"}',
    b'{"type":"ack","seq":-1,"msgs":5}',
    b'{"type":"ack","seq":301,"msgs":5}',
    b'{"type":"ack","seq":9223372036854775807,"msgs":5}',
    b'{"type":"ack","seq":18446744073709551615,"msgs":5}',
    b'{"type":"ack","seq":0,"msgs":0}',
    b'{"type":"ack","seq":0,"msgs":9223372036854775807}',
    b'{"type":"ack","seq":0,"msgs":18446744073709551615}',
    b'{"type":"gap","last_seq":5,"seq":9}',
    b'{"type":"err","seq":3,"error":{"code":400,"err_code":10054,"description":"no"}}',
    b'{"type":"other","seq":300,"count":300,"stream":"STREAM"}',
    b"[" * 5000,
    b'{"a":' * 5000,
]


@both
async def test_answers_when_they_are_garbage_settle_nothing(held: Held, stream: str, logged: Logged) -> None:
    logged.allow("answers for stream")
    subjects = [f"{held.inbox}.{held.first}"]
    if held.batch:
        subjects = [f"{held.batch}.{seq}.{op}.$FI" for seq, op in ((1, 0), (2, 1), (301, 3))]
    for payload in GARBAGE:
        for subject in subjects:
            await held.forge(subject, payload.replace(b"STREAM", stream.encode()))


@both
async def test_answers_when_they_go_to_other_subjects_settle_nothing(held: Held, stream: str) -> None:
    plain = b'{"stream":"%b", "seq":9}' % stream.encode()
    final = b'{"stream":"%b", "seq":9,"batch":"b","count":300}' % stream.encode()
    flow = b'{"type":"ack","seq":300,"msgs":10}'
    refusal = b'{"error":{"code":400,"err_code":10054,"description":"no"}}'
    for seq in ("0", str(held.first - 1), str(held.first + N), "99999999999999999999", "-1", "+1", "x", "1.2"):
        for payload in (plain, final, flow, refusal):
            await held.forge(f"{held.inbox}.{seq}", payload)
    for batch in ("b.500.fail", "AAAAAAAAAAAAAAAAAAAAAA.500.fail", f"{held.batch[-30:]}x", "b"):
        for tail in ("1.0.$FI", "300.1.$FI", "1.$FI", "$FI"):
            for payload in (plain, final, flow, refusal):
                await held.forge(f"{held.inbox}.{batch}.{tail}", payload)


@fast
async def test_answers_when_they_are_for_the_window_settle_no_batch(held: Held, stream: str) -> None:
    for seq in range(held.first, held.first + 5):
        await held.forge(f"{held.inbox}.{seq}", b'{"stream":"%b", "seq":9}' % stream.encode())
        await held.forge(f"{held.inbox}.{seq}", b'{"error":{"code":400,"err_code":1,"description":"no"}}')


@fast
async def test_answers_when_their_place_is_not_in_the_batch_settle_nothing(held: Held, stream: str) -> None:
    final = b'{"stream":"%b", "seq":9,"batch":"b","count":300}' % stream.encode()
    for tail in ("302.1.$FI", "999.1.$FI", "-1.1.$FI", "x.1.$FI", "1", ".1.$FI", "99999999999999999999.1.$FI"):
        if ".." not in f".{tail}":
            await held.forge(f"{held.batch}.{tail}", final)


@fast
async def test_final_answer_when_its_count_cannot_be_settles_nothing(held: Held, stream: str) -> None:
    batch = held.batch.rsplit(".", 3)[1]
    for count in (b"-1", b"301", b"18446744073709551615", b"99999999999999999999999", b'"300"', b"1.5"):
        payload = b'{"stream":"%b","seq":9,"batch":"%b","count":%b}' % (stream.encode(), batch.encode(), count)
        await held.forge(f"{held.batch}.301.3.$FI", payload)
    for other in (b"", b"AAAAAAAAAAAAAAAAAAAAAA"):
        payload = b'{"stream":"%b","seq":9,"batch":"%b","count":300}' % (stream.encode(), other)
        await held.forge(f"{held.batch}.301.3.$FI", payload)


@fast
async def test_final_answer_when_it_names_another_stream_settles_nothing(held: Held, logged: Logged) -> None:
    logged.expect("stream 'other' answers for stream")
    await held.forge(f"{held.batch}.301.3.$FI", b'{"stream":"other","seq":9,"batch":"b","count":300}')


@window
async def test_answers_when_they_are_for_batches_settle_no_window(held: Held, stream: str) -> None:
    final = b'{"stream":"%b", "seq":9,"batch":"b","count":300}' % stream.encode()
    for payload in (final, b'{"type":"ack","seq":300,"msgs":10}'):
        await held.forge(f"{held.inbox}.b.500.fail.300.1.$FI", payload)
    await held.forge(f"{held.inbox}.{held.first}", b'{"type":"ack","seq":300,"msgs":10}')


@window
async def test_answers_when_they_have_a_status_that_says_nothing_settle_nothing(held: Held) -> None:
    for status in ("100", "400", "408", "500", "999"):
        await held.forge(f"{held.inbox}.{held.first}", b"", headers={"Status": status})


async def test_answer_when_another_stream_owns_the_subject_fails_the_event(
    connect: Connect, conn: eda.Conn, admin: Admin, server: eda.EmbeddedServer, stream: str
) -> None:
    """The stream was deleted, and another one took over its subjects. An event stored there counts as failed."""
    outcomes = Outcomes()
    async with conn.publisher(stream, mode="window", **outcomes.callbacks) as pub:
        await pub.send(eda.Event(id="first"))
        await pub.flush()
        await conn.streams.delete(stream)
        other = f"{stream}-other"
        await admin.api(f"STREAM.CREATE.{other}", {"name": other, "subjects": [stream, f"{stream}.>"]})
        try:
            await pub.send(eda.Event(id="second"))
            await pub.flush()
        finally:
            await admin.js.delete_stream(other)
    assert list(outcomes.acknowledged) == ["first"]
    assert list(outcomes.failed) == ["second"]
    assert f"stream '{other}' owns the subject of '{stream}'" in str(outcomes.errors["second"])
