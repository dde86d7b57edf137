"""conn.replay_dead: dead letters back into their stream, in order, each once, for one subscription alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
import eda.dead_letters.store
import eda.jetstream.subjects
from eda._codec import decode_event, encode_event
from eda.dead_letters.letter_stream import LetterStream
from helpers import Admin, Logged, Proxy, until
from support.dead_letters.letters import bury, letters_of, stored


@pytest.fixture
async def dead(admin: Admin, stream: str) -> AsyncIterator[str]:
    """The dead-letter stream of `stream`."""
    yield f"{stream}-dead"
    with suppress(NatsError):
        await admin.js.delete_stream(f"{stream}-dead")


async def replayed(admin: Admin, stream: str) -> list[str]:
    """Return the types of the stream's events, which differ and stay the same."""
    return [decode_event(each.payload).type for each in await stored(admin, stream)]


@pytest.mark.old_server
async def test_replay_when_there_are_letters_of_several_takes_only_its_own_in_order(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.publish(stream, eda.Event(type="first"))
    await bury(conn, stream, 1)
    await bury(conn, stream, 2, name="shipping")
    await bury(conn, stream, 3, reason="rejected")
    await bury(conn, stream, 4, reason="undecodable", payload=b"\xff", event_type="")
    await bury(conn, stream, 6, stream="elsewhere")
    await admin.js.publish(f"{dead}.foreign", b"no letter at all")
    await bury(conn, stream, 7)
    assert await conn.replay_dead(stream, "billing") == 3
    assert await replayed(admin, stream) == ["first", "type-1", "type-3", "type-7"]
    assert [each.headers.get("Eda-Dead-Sequence") for each in await stored(admin, dead)] == ["2", "4", "6", None]
    assert await conn.replay_dead(stream, "billing") == 0
    assert await conn.replay_dead(stream, "shipping") == 1
    assert await replayed(admin, stream) == ["first", "type-1", "type-3", "type-7", "type-2"]


@pytest.mark.old_server
async def test_replay_when_done_changes_the_id_only(conn: eda.Conn, admin: Admin, stream: str, dead: str) -> None:
    event = eda.Event(
        id="original",
        type="order.paid",
        aggregate="47 11",
        schema="v1",
        cause="the cause",
        client="shop",
        time=12345678901,
        meta={"b": "1", "a": "ünï"},
        data=eda.JSON({"amount": 7}),
    )
    await conn.publish(stream)
    await bury(conn, stream, 1, payload=encode_event(event), event_type=event.type, aggregate=event.aggregate)
    await conn.replay_dead(stream, "billing")
    again = (await stored(admin, stream))[-1]
    found = decode_event(again.payload)
    assert found.replace(id="original") == event
    assert list(found.meta) == ["b", "a"]
    assert found.id.startswith(f"replay:{dead}:")
    assert found.id.endswith(":1")
    assert len(found.id) <= 128
    assert again.headers == {"Nats-Msg-Id": found.id, "Eda-Replay-For": "billing"}
    assert again.subject == eda.jetstream.subjects.subject_of(stream, event.type, event.aggregate)


@pytest.mark.old_server
@pytest.mark.parametrize("n_letters", [40, 100])
async def test_replay_when_there_are_gaps_and_a_limit_finds_every_letter_once_in_order(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, n_letters: int
) -> None:
    await conn.publish(stream, eda.Event(type="first"))
    for number in range(n_letters):
        await bury(conn, stream, number, name="billing" if number % 3 else "shipping")
    gone = {*range(5, 15), *range(30, n_letters - 5), n_letters - 2}
    for number in gone:
        await admin.api(f"STREAM.MSG.DELETE.{dead}", {"seq": number + 1})
    mine = [f"type-{number}" for number in range(n_letters) if number % 3 and number not in gone]
    assert await conn.replay_dead(stream, "billing", limit=4) == 4
    assert await replayed(admin, stream) == ["first", *mine[:4]]
    assert await conn.replay_dead(stream, "billing", limit=1000) == len(mine) - 4
    assert await replayed(admin, stream) == ["first", *mine]
    names = [each.headers["Eda-Dead-Subscription"] for each in await stored(admin, dead)]
    assert set(names) == {"shipping"}


async def test_replay_when_one_dies_again_meanwhile_leaves_it_for_the_next_time(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def remove(letters: LetterStream, sequence: int) -> None:
        await original(letters, sequence)
        await bury(conn, stream, 100 + sequence)

    original = LetterStream.remove
    await conn.publish(stream)
    for number in range(3):
        await bury(conn, stream, number)
    monkeypatch.setattr(LetterStream, "remove", remove)
    async with asyncio.timeout(10):
        assert await conn.replay_dead(stream, "billing") == 3
    assert len(await stored(admin, dead)) == 3
    assert len(await stored(admin, stream)) == 4


async def test_replay_when_it_breaks_between_publishing_and_removing_stores_once(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def remove(letters: LetterStream, sequence: int) -> None:
        if sequence == 2:
            raise eda.Timeout("removing", 1.0)
        await original(letters, sequence)

    original = LetterStream.remove
    await conn.publish(stream, eda.Event(type="first"))
    for number in range(3):
        await bury(conn, stream, number)
    with monkeypatch.context() as patch:
        patch.setattr(LetterStream, "remove", remove)
        with pytest.raises(eda.Timeout) as caught:
            await conn.replay_dead(stream, "billing")
    assert caught.value.__notes__ == ["1 dead letters were replayed before"]
    assert await replayed(admin, stream) == ["first", "type-0", "type-1"]
    assert await conn.replay_dead(stream, "billing") == 2
    assert await replayed(admin, stream) == ["first", "type-0", "type-1", "type-2"]
    assert await stored(admin, dead) == []


async def test_replay_when_the_dead_letter_stream_is_made_again_does_not_take_one_for_another(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.publish(stream, eda.Event(type="first"))
    for number in (1, 2):
        await bury(conn, stream, number)
        assert await conn.replay_dead(stream, "billing") == 1
        await conn.streams.delete(dead)
        letters_of(conn)._streams._known.clear()
    assert await replayed(admin, stream) == ["first", "type-1", "type-2"]


@pytest.mark.old_server
async def test_replay_when_two_run_at_once_stores_each_event_once(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.publish(stream, eda.Event(type="first"))
    for number in range(50):
        await bury(conn, stream, number)
    counts = await asyncio.gather(*(conn.replay_dead(stream, "billing") for _ in range(3)))
    assert sum(counts) >= 50
    types = await replayed(admin, stream)
    assert sorted(types) == sorted(["first", *(f"type-{number}" for number in range(50))])
    assert await stored(admin, dead) == []


async def test_replay_when_the_subject_is_too_long_publishes_to_the_bare_stream(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.publish(stream)
    event = eda.Event(id="long", type="t" * 5000)
    await bury(conn, stream, 1, payload=encode_event(event), event_type=event.type)
    assert await conn.replay_dead(stream, "billing") == 1
    again = (await stored(admin, stream))[-1]
    assert (again.subject, decode_event(again.payload).type) == (stream, event.type)


async def test_replay_when_a_letter_does_not_decode_leaves_it_and_says_so(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged
) -> None:
    await conn.publish(stream)
    await bury(conn, stream, 1, payload=b"\xff")
    await bury(conn, stream, 2)
    assert await conn.replay_dead(stream, "billing") == 1
    assert [each.headers["Eda-Dead-Sequence"] for each in await stored(admin, dead)] == ["1"]
    assert logged.find(f"stream {dead}, sequence 1 is not an event and stays")


async def test_replay_when_another_stream_has_the_letters_takes_them_there(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.publish(stream)
    await bury(conn, stream, 1)
    assert await conn.replay_dead(stream, "billing", dead_letter=dead) == 1
    await bury(conn, stream, 2)
    assert await conn.replay_dead(stream, "billing", dead_letter="{stream}-dead") == 1


async def test_replay_when_a_stream_is_missing_says_which(conn: eda.Conn, stream: str, dead: str) -> None:
    with pytest.raises(eda.StreamNotFound) as caught:
        await conn.replay_dead(stream, "billing")
    assert caught.value.stream == dead
    await bury(conn, stream, 1)
    with pytest.raises(eda.StreamNotFound) as caught:
        await conn.replay_dead(stream, "billing")
    assert caught.value.stream == stream
    assert (await conn.streams.info(dead)).events == 1


@pytest.mark.parametrize(
    ("stream", "name", "options", "argument"),
    [
        ("a.b", "billing", {}, "stream"),
        (None, "billing", {}, "stream"),
        ("orders", "a b", {}, "name"),
        ("orders", "", {}, "name"),
        ("orders", "billing", {"limit": 0}, "limit"),
        ("orders", "billing", {"limit": -1}, "limit"),
        ("orders", "billing", {"limit": 1.5}, "limit"),
        ("orders", "billing", {"limit": True}, "limit"),
        ("orders", "billing", {"dead_letter": "a.b"}, "dead_letter"),
        ("orders", "billing", {"dead_letter": 7}, "dead_letter"),
        ("x" * 64, "billing", {}, "dead_letter"),
    ],
)
async def test_replay_when_an_argument_is_wrong_raises_config_error(
    conn: eda.Conn, stream: Any, name: str, options: dict[str, Any], argument: str
) -> None:
    with pytest.raises(eda.ConfigError) as caught:
        await conn.replay_dead(stream, name, **options)
    assert caught.value.argument == argument


async def test_replay_when_letters_can_not_be_removed_is_refused_before_anything_is_published(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.publish(stream)
    await admin.api(f"STREAM.CREATE.{dead}", {"name": dead, "subjects": [dead, f"{dead}.>"], "deny_delete": True})
    await bury(conn, stream, 1)
    with pytest.raises(eda.ConfigError, match="delete"):
        await conn.replay_dead(stream, "billing")
    assert len(await stored(admin, stream)) == 1


async def test_replay_when_the_connection_is_lost_again_and_again_replays_all_once(
    own_server: eda.EmbeddedServer,
) -> None:
    async with (
        Proxy(own_server.port) as proxy,
        eda.connect(proxy.url(own_server.url)) as conn,
        eda.connect(own_server.url) as other,
    ):
        await other.publish("stream")
        for number in range(200):
            await bury(other, "stream", number)
        replaying = asyncio.create_task(conn.replay_dead("stream", "billing"))
        for _ in range(3):
            n_sent = len(proxy.sent)
            await until(lambda n_sent=n_sent: len(proxy.sent) > n_sent + 2000 or replaying.done())
            proxy.drop()
        assert await asyncio.wait_for(replaying, 20) == 200
        assert (await other.streams.info("stream")).events == 201
        assert (await other.streams.info("stream-dead")).events == 0


async def test_replay_when_cancelled_or_closed_leaves_the_rest(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.publish(stream)
    for number in range(30):
        await bury(conn, stream, number)
    replaying = asyncio.create_task(conn.replay_dead(stream, "billing"))
    await until(lambda: n_events(conn, stream))
    replaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replaying
    replaying = asyncio.create_task(conn.replay_dead(stream, "billing"))
    await asyncio.sleep(0.002)
    await conn.close()
    with pytest.raises(eda.Closed):
        await asyncio.wait_for(replaying, 5)
    n_left = len(await stored(admin, dead))
    assert 31 - n_left <= len(await stored(admin, stream)) <= 33 - n_left


async def n_events(conn: eda.Conn, stream: str) -> bool:
    return (await conn.streams.info(stream)).events > 3


async def test_replay_when_not_connected_raises_closed() -> None:
    with pytest.raises(eda.Closed):
        await eda.connect("nats://127.0.0.1:1").replay_dead("orders", "billing")
