"""Storing dead letters: stored once and whole, whatever is in them and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any
from urllib.parse import unquote

import pytest

import eda
import eda.dead_letters.store
import eda.jetstream.store_message
import eda.jetstream.subjects
from eda._codec import decode_event, encode_event
from eda.headers import read_headers, size_of_headers
from helpers import Admin, Connect, Logged, Proxy, until, wire_of
from support.dead_letters.letters import Stored, letters_of, stored

EVENT = eda.Event(id="e1", type="paid", aggregate="4711", data=eda.String("x"))
LETTER: dict[str, Any] = {
    "event_type": "paid",
    "aggregate": "4711",
    "payload": encode_event(EVENT),
    "reason": "attempts",
    "error": "ValueError: no",
    "stream": "orders",
    "sequence": 17,
    "subscription": "billing",
    "attempts": 5,
}


@pytest.fixture
def dead(stream: str) -> str:
    """The dead-letter stream of the test's own."""
    return stream


@pytest.mark.old_server
async def test_store_when_there_is_no_stream_creates_it_and_keeps_the_message(
    conn: eda.Conn, admin: Admin, dead: str
) -> None:
    await letters_of(conn).store(dead, **LETTER)
    (letter,) = await stored(admin, dead)
    assert letter.subject == f"{dead}.paid.4711"
    assert letter.payload == LETTER["payload"]
    assert decode_event(letter.payload) == EVENT
    time = letter.headers.pop("Eda-Dead-Time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", time)
    assert letter.headers == {
        "Nats-Msg-Id": "dead:billing:17",
        "Eda-Dead-Reason": "attempts",
        "Eda-Dead-Error": "ValueError: no",
        "Eda-Dead-Stream": "orders",
        "Eda-Dead-Sequence": "17",
        "Eda-Dead-Subscription": "billing",
        "Eda-Dead-Attempts": "5",
    }


async def test_store_when_streams_are_not_created_raises_stream_not_found(connect: Connect, dead: str) -> None:
    conn = await connect(auto_create=False)
    with pytest.raises(eda.StreamNotFound) as caught:
        await letters_of(conn).store(dead, **LETTER)
    assert caught.value.stream == dead


async def test_store_when_the_stream_was_deleted_meanwhile_finds_out_and_creates_it(
    conn: eda.Conn, admin: Admin, dead: str
) -> None:
    await letters_of(conn).store(dead, **LETTER)
    await admin.js.delete_stream(dead)
    with pytest.raises(eda.ServerError) as caught:
        await letters_of(conn).store(dead, **LETTER)
    assert caught.value.code == 503
    assert caught.value.retryable
    await letters_of(conn).store(dead, **LETTER)
    assert len(await stored(admin, dead)) == 1


HOSTILE = "a\r\nEda-Replay-For: b\r\n\r\nPUB x 0\r\n\x00%.*>  Zoë \udc80"


@pytest.mark.old_server
@pytest.mark.parametrize("error", [HOSTILE, "\r\n" * 2000, "é" * 3000, "%" * 3000, "", " ", "\n"], ids=ascii)
async def test_store_when_the_error_is_hostile_keeps_it_within_its_header(
    conn: eda.Conn, admin: Admin, dead: str, error: str
) -> None:
    await letters_of(conn).store(dead, **LETTER | {"error": error})
    (letter,) = await stored(admin, dead)
    assert list(letter.headers) == [
        "Nats-Msg-Id",
        *(f"Eda-Dead-{name}" for name in ("Reason", "Error", "Stream", "Sequence", "Subscription", "Attempts", "Time")),
    ]
    assert letter.n_header_lines == 8
    kept = letter.headers["Eda-Dead-Error"]
    assert len(kept) <= 1024
    assert re.fullmatch(r"([ -$&-~]|%[0-9A-F]{2})*", kept)
    whole = error.encode(errors="backslashreplace").decode()
    assert whole.strip(" ").startswith(unquote(kept, errors="strict"))
    assert len(kept) > 1000 or unquote(kept) == whole.strip(" ")
    assert letter.payload == LETTER["payload"]


@pytest.mark.old_server
@pytest.mark.parametrize("text", ["a\r\nb", "\x00", "x y.*>", "Zoë€\U0001f600", "_", "", "%"], ids=ascii)
async def test_store_when_type_and_aggregate_are_hostile_keeps_them_within_their_tokens(
    conn: eda.Conn, admin: Admin, dead: str, text: str
) -> None:
    await letters_of(conn).store(dead, **LETTER | {"event_type": text, "aggregate": text})
    (letter,) = await stored(admin, dead)
    assert eda.jetstream.subjects.parse_subject(letter.subject) == (dead, text, text)
    assert letter.n_header_lines == 8


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 2000, "\udc80"], ids=lambda text: ascii(text[:3]))
async def test_store_when_the_subject_can_not_be_made_stores_it_on_the_empty_one(
    conn: eda.Conn, admin: Admin, dead: str, text: str
) -> None:
    await letters_of(conn).store(dead, **LETTER | {"aggregate": text})
    assert [letter.subject for letter in await stored(admin, dead)] == [f"{dead}._._"]


async def test_store_when_undecodable_keeps_the_bytes(conn: eda.Conn, admin: Admin, dead: str) -> None:
    bad = b"\xff\x00\r\nPUB x 0\r\n\r\n"
    letter = LETTER | {"event_type": "", "aggregate": "", "payload": bad, "reason": "undecodable"}
    await letters_of(conn).store(dead, **letter)
    assert [(each.subject, each.payload) for each in await stored(admin, dead)] == [(f"{dead}._._", bad)]


@pytest.mark.old_server
async def test_store_when_it_was_stored_already_does_not_store_it_twice(
    conn: eda.Conn, admin: Admin, dead: str
) -> None:
    for attempts in (5, 6):
        await letters_of(conn).store(dead, **LETTER | {"attempts": attempts, "error": str(attempts)})
    assert [letter.headers["Eda-Dead-Attempts"] for letter in await stored(admin, dead)] == ["5"]


@pytest.mark.old_server
@pytest.mark.parametrize(
    "other", [{"payload": encode_event(EVENT.replace(id="e2"))}, {"stream": "invoices"}], ids=["payload", "stream"]
)
async def test_store_when_another_event_has_the_id_stores_both(
    conn: eda.Conn, admin: Admin, dead: str, other: dict[str, Any]
) -> None:
    """A stream that was deleted and made again, or two streams with one dead-letter stream."""
    await letters_of(conn).store(dead, **LETTER)
    await letters_of(conn).store(dead, **LETTER | other)
    first, second = await stored(admin, dead)
    assert first.headers["Nats-Msg-Id"] == "dead:billing:17"
    assert re.fullmatch(r"dead:billing:17:[0-9A-Za-z]{22}", second.headers["Nats-Msg-Id"])
    assert second.payload == (LETTER | other)["payload"]
    assert second.headers["Eda-Dead-Stream"] == (LETTER | other)["stream"]


@pytest.mark.old_server
async def test_store_when_the_one_with_its_id_is_gone_stores_it_again(conn: eda.Conn, admin: Admin, dead: str) -> None:
    await letters_of(conn).store(dead, **LETTER)
    await admin.js.purge_stream(dead)
    await letters_of(conn).store(dead, **LETTER)
    assert len(await stored(admin, dead)) == 1


async def test_store_when_the_stream_listens_elsewhere_raises_config_error(
    conn: eda.Conn, admin: Admin, dead: str
) -> None:
    await admin.api(f"STREAM.CREATE.{dead}-owner", {"name": f"{dead}-owner", "subjects": [f"{dead}.>"]})
    await admin.api(f"STREAM.CREATE.{dead}", {"name": dead, "subjects": [f"{dead}-elsewhere"]})
    try:
        with pytest.raises(eda.ConfigError, match=f"does not listen to '{dead}.paid.4711' .*'{dead}-elsewhere'"):
            await letters_of(conn).store(dead, **LETTER)
        assert (await conn.streams.info(f"{dead}-owner")).events == 0
    finally:
        await admin.js.delete_stream(f"{dead}-owner")


async def test_store_when_the_stream_is_full_raises_what_the_server_says(
    conn: eda.Conn, admin: Admin, dead: str
) -> None:
    await conn.streams.create(dead, eda.StreamOptions(max_events=1, discard="new"))
    await letters_of(conn).store(dead, **LETTER)
    with pytest.raises(eda.ServerError, match="maximum messages"):
        await letters_of(conn).store(dead, **LETTER | {"sequence": 18})
    assert len(await stored(admin, dead)) == 1


async def test_store_when_it_is_too_large_shortens_the_error_first(conn: eda.Conn, admin: Admin, dead: str) -> None:
    most = wire_of(conn).max_payload
    await letters_of(conn).store(dead, **LETTER | {"payload": bytes(most - 700), "error": "é" * 600})
    (letter,) = await stored(admin, dead)
    assert len(letter.payload) == most - 700
    kept = letter.headers["Eda-Dead-Error"]
    assert most - 6 < size_of_headers(letter.headers) + len(letter.payload) <= most
    assert set(unquote(kept, errors="strict")) == {"é"}
    n_least = size_of_headers(letter.headers) - len(kept)
    other = LETTER | {"sequence": 18}
    await letters_of(conn).store(dead, **other | {"payload": bytes(most - n_least)})
    assert [each.headers["Eda-Dead-Error"] for each in await stored(admin, dead)] == [kept, ""]
    assert {len(each.payload) for each in await stored(admin, dead)} == {most - 700, most - n_least}
    assert wire_of(conn).is_up


@pytest.mark.parametrize("to", ["", "a.b", "x" * 65, "dead letters"])
async def test_store_when_the_name_is_none_raises_config_error(conn: eda.Conn, to: str) -> None:
    with pytest.raises(eda.ConfigError):
        await letters_of(conn).store(to, **LETTER)


async def test_store_when_nobody_answers_raises_timeout_in_time_and_works_later(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eda.dead_letters.store, "TIMEOUT_S", 0.3)
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url)) as conn:
        await letters_of(conn).store("dead", **LETTER | {"sequence": 1})
        proxy.hold()
        with pytest.raises(eda.Timeout, match="dead letter in dead"):
            await letters_of(conn).store("dead", **LETTER)
        proxy.release()
        await letters_of(conn).store("dead", **LETTER)
        assert (await conn.streams.info("dead")).events == 2


async def test_store_when_the_connection_is_lost_meanwhile_fails_at_once_and_works_later(
    own_server: eda.EmbeddedServer,
) -> None:
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url)) as conn:
        await letters_of(conn).store("dead", **LETTER | {"sequence": 1})
        proxy.hold()
        storing = asyncio.create_task(letters_of(conn).store("dead", **LETTER))
        await until(lambda: b"dead:billing:17" in proxy.sent)
        proxy.drop()
        with pytest.raises(eda.ServerError) as caught:
            await asyncio.wait_for(storing, 4)
        assert caught.value.retryable
        proxy.release()
        await letters_of(conn).store("dead", **LETTER)
        assert (await conn.streams.info("dead")).events == 2


async def test_store_when_closed_raises_closed(conn: eda.Conn, dead: str) -> None:
    letters = letters_of(conn)
    await letters.store(dead, **LETTER)
    await conn.close()
    with pytest.raises(eda.Closed):
        await letters.store(dead, **LETTER)


async def test_store_when_cancelled_leaves_nothing_behind(own_server: eda.EmbeddedServer) -> None:
    async with Proxy(own_server.port) as proxy, eda.connect(proxy.url(own_server.url)) as conn:
        await letters_of(conn).store("dead", **LETTER)
        wire = wire_of(conn)
        before = [list(calls) for calls in (wire.on_lost, wire.on_closed, wire.on_refused)]
        proxy.hold()
        storing = asyncio.create_task(letters_of(conn).store("dead", **LETTER | {"sequence": 2}))
        await until(lambda: b"dead:billing:2" in proxy.sent)
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        assert [wire.on_lost, wire.on_closed, wire.on_refused] == before
        proxy.release()


async def test_store_when_it_may_not_publish_raises_at_once(logged: Logged) -> None:
    logged.expect("the server forbids")
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["dead.>"]}}}
    async with (
        eda.EmbeddedServer(config={"authorization": {"users": [user]}}) as server,
        eda.connect(f"nats://127.0.0.1:{server.port}", user="u", password="p") as conn,
    ):
        async with asyncio.timeout(4):
            with pytest.raises(eda.ServerError, match="no permission") as caught:
                await letters_of(conn).store("dead", **LETTER)
        assert caught.value.code == 403


def test_stored_when_it_reads_a_message_counts_its_header_lines() -> None:
    block = b"NATS/1.0\r\nA: 1\r\nB: 2\r\n\r\n"
    letter = Stored.of({"seq": 1, "subject": "s", "hdrs": base64.b64encode(block).decode()})
    assert (letter.n_header_lines, letter.headers, letter.payload) == (2, read_headers(block), b"")
