"""Dead letters of packs: an event of a pack dies alone, and a pack that can not be read dies as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
import eda.compression
from eda._codec import decode_event
from helpers import Admin, Logged
from support.dead_letters.letters import letters_of, stored
from support.packs import compressed, envelopes_of, pack_of, publish_pack

EVENTS = [eda.Event(id=f"e{number}", type=f"type-{number}", aggregate="a 1", time=number + 1) for number in range(3)]


@pytest.fixture
async def dead(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The dead-letter stream of the test's stream; deleted afterwards."""
    name = f"{stream}-dead"
    yield name
    with suppress(NatsError):
        await admin.js.delete_stream(name)


async def bury(conn: eda.Conn, stream: str, sequence: int, index: int | None, /, **fields: Any) -> None:
    """Store the dead letter of an event that was at this place. It is one of EVENTS if it is not given."""
    event = EVENTS[(index or 0) % len(EVENTS)]
    letter: dict[str, Any] = {
        "event_type": event.type,
        "aggregate": event.aggregate,
        "payload": envelopes_of([event])[0],
        "reason": "attempts",
        "error": "no",
        "stream": stream,
        "sequence": sequence,
        "index": index,
        "subscription": "billing",
        "attempts": 3,
    }
    await letters_of(conn).store(f"{stream}-dead", **letter | fields)


# --- storing ---------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_store_when_events_of_one_pack_die_stores_each_with_its_index(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    for index in (1, 0, 1, None):  # the third is the same letter as the first
        await bury(conn, stream, 7, index)
    letters = await stored(admin, dead)
    assert [each.headers["Nats-Msg-Id"] for each in letters] == [
        "dead:billing:7.1",
        "dead:billing:7.0",
        "dead:billing:7",
    ]
    assert [each.headers["Eda-Dead-Sequence"] for each in letters] == ["7"] * 3
    assert [each.headers.get("Eda-Dead-Index") for each in letters] == ["1", "0", None]
    assert [each.subject for each in letters] == [f"{dead}.type-{n}.a%201" for n in (1, 0, 0)]
    assert [decode_event(each.payload) for each in letters] == [EVENTS[1], EVENTS[0], EVENTS[0]]
    assert not any("Eda-Dead-Subject" in each.headers for each in letters)


# --- replaying -------------------------------------------------------------------------------------------------------


@pytest.mark.old_server
async def test_replay_of_one_event_of_a_pack_publishes_it_as_an_ordinary_message(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.streams.create(stream)
    await publish_pack(admin.js, stream, EVENTS)
    await bury(conn, stream, 1, 2)
    await bury(conn, stream, 1, 0)
    assert await conn.replay_dead(stream, "billing") == 2
    pack, *again = await stored(admin, stream)
    assert pack.payload == pack_of(EVENTS)
    for message, event in zip(again, (EVENTS[2], EVENTS[0]), strict=True):
        found = decode_event(message.payload)
        assert found.replace(id=event.id) == event
        assert message.headers == {"Nats-Msg-Id": found.id, "Eda-Replay-For": "billing"}
        assert message.subject == f"{stream}.{event.type}.a%201"
    assert await stored(admin, dead) == []


@pytest.mark.old_server
@pytest.mark.parametrize("is_compressed", [False, True])
async def test_replay_when_the_letter_lacks_the_event_finds_it_in_the_pack(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, is_compressed: bool
) -> None:
    await conn.streams.create(stream)
    events = [eda.Event(id=f"e{n}", type="t", data=eda.Bytes(bytes([n]) * 900)) for n in range(5)]
    payload = compressed(pack_of(events)) if is_compressed else pack_of(events)
    await publish_pack(admin.js, stream, events, payload=payload)
    await admin.api(f"STREAM.CREATE.{dead}", {"name": dead, "subjects": [f"{dead}.>"], "max_msg_size": 900})
    for index in (3, 0):
        await bury(conn, stream, 1, index, payload=envelopes_of(events)[index], event_type="t")
    letters = await stored(admin, dead)
    assert [each.payload for each in letters] == [b"", b""]
    assert letters[0].headers["Eda-Dead-Digest"] == hashlib.sha256(envelopes_of(events)[3]).hexdigest()
    assert letters[0].headers["Eda-Dead-Omitted"] == str(len(envelopes_of(events)[3]))
    assert letters[0].headers["Eda-Dead-Subject"] == f"{stream}.t.a%25201"  # escaped once more, as all texts are
    assert await conn.replay_dead(stream, "billing") == 2
    again = (await stored(admin, stream))[1:]
    assert [decode_event(each.payload).data.encode()[:1] for each in again] == [b"\x03", b"\x00"]
    assert [each.subject for each in again] == [f"{stream}.t.a%201"] * 2


GONE = {
    "digest": (pack_of([EVENTS[1], EVENTS[0]]), "has another message at sequence 1 now"),
    "fewer": (pack_of(EVENTS[:1]), "has another message at sequence 1 now"),
    "ordinary": (envelopes_of(EVENTS)[1], "has another message at sequence 1 now"),
    "unreadable": (pack_of(EVENTS)[:-1], "has another message at sequence 1 now"),
    "gone": (None, "its payload is gone from stream"),
}


@pytest.mark.parametrize(("payload", "why"), GONE.values(), ids=GONE)
async def test_replay_when_the_pack_is_not_there_any_more_leaves_the_letter_and_says_so(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged, payload: bytes | None, why: str
) -> None:
    await conn.streams.create(stream)
    await publish_pack(admin.js, stream, EVENTS, payload=payload or b"x")
    if payload is None:
        await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 1})
    digest = hashlib.sha256(envelopes_of(EVENTS)[1]).hexdigest()
    await place_letter(admin, stream, dead, {"Eda-Dead-Index": "1", "Eda-Dead-Digest": digest})
    assert await conn.replay_dead(stream, "billing") == 0
    assert logged.find(f"stream {dead}, sequence 1 is not replayed and stays: .*{why}")
    assert len(await stored(admin, dead)) == 1


async def place_letter(admin: Admin, stream: str, dead: str, headers: dict[str, str], payload: bytes = b"") -> None:
    """Publish a dead letter without eda."""
    await admin.api(f"STREAM.CREATE.{dead}", {"name": dead, "subjects": [dead, f"{dead}.>"]})
    known = {"Eda-Dead-Subscription": "billing", "Eda-Dead-Stream": stream, "Eda-Dead-Sequence": "1"}
    omitted = {} if payload else {"Eda-Dead-Omitted": "17"}
    await admin.js.publish(f"{dead}._._", payload, headers=known | omitted | headers)


@pytest.mark.parametrize("index", ["", "x", "-1", "1.0", "\u0661", "9" * 19, "1" * 5000])
async def test_replay_when_the_index_makes_no_sense_leaves_the_letter(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged, index: str
) -> None:
    await conn.streams.create(stream)
    await publish_pack(admin.js, stream, EVENTS)
    digest = hashlib.sha256(pack_of(EVENTS)).hexdigest()
    await place_letter(admin, stream, dead, {"Eda-Dead-Index": index, "Eda-Dead-Digest": digest})
    assert await conn.replay_dead(stream, "billing") == 0
    assert logged.find("its headers do not say where its payload is")


async def test_replay_when_an_event_of_a_pack_is_itself_a_pack_leaves_it(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged
) -> None:
    """A pack never has a pack in it, so the letter of such an event is no event."""
    await conn.streams.create(stream)
    headers = {"Eda-Dead-Index": "1", "Eda-Dead-Reason": "undecodable"}
    await place_letter(admin, stream, dead, headers, pack_of(EVENTS))
    assert await conn.replay_dead(stream, "billing") == 0
    assert await stored(admin, stream) == []
    assert not logged.find("stays")


# --- packs that could not be read ------------------------------------------------------------------------------------

UNREAD_PACK = {
    "event_type": "",
    "aggregate": "",
    "reason": "undecodable",
    "error": "what reads packs was not there",
    "foreign": {"Trace": "t1"},
    "event_id": "id-of-the-pack",
}


@pytest.mark.old_server
@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize(
    ("subject", "again"),
    [("{}.type-1.%pack", "{}.type-1.%pack"), ("elsewhere.x", "{}.%pack.%pack"), ("", "{}.%pack.%pack")],
)
async def test_replay_of_a_pack_that_can_be_read_now_publishes_it_as_it_was(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, is_compressed: bool, subject: str, again: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    payload = compressed(pack_of(EVENTS)) if is_compressed else pack_of(EVENTS)
    await bury(conn, stream, 1, None, payload=payload, subject=subject.format(stream), **UNREAD_PACK)
    assert await conn.replay_dead(stream, "billing") == 1
    (message,) = await stored(admin, stream)
    assert (message.subject, message.payload) == (again.format(stream), payload)
    message_id = message.headers.pop("Nats-Msg-Id")
    assert message_id.startswith(f"replay:{dead}:")
    assert message.headers == {"Eda-Pack": "3", "Eda-Replay-For": "billing", "Trace": "t1"}
    assert await stored(admin, dead) == []


async def test_replay_of_a_pack_that_its_letter_lacks_reads_it_in_the_stream(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await publish_pack(admin.js, stream, EVENTS)
    await admin.api(f"STREAM.CREATE.{dead}", {"name": dead, "subjects": [f"{dead}.>"], "max_msg_size": 600})
    events = [eda.Event(type="t", data=eda.Bytes(bytes(600)))]
    await publish_pack(admin.js, stream, events, subject=f"{stream}.t._")
    fields = UNREAD_PACK | {"payload": pack_of(events), "subject": f"{stream}.t._"}
    await bury(conn, stream, 2, None, **fields)
    assert await conn.replay_dead(stream, "billing") == 1
    message = (await stored(admin, stream))[-1]
    assert (message.subject, message.payload) == (f"{stream}.t._", pack_of(events))


UNREADABLE = [pack_of(EVENTS)[:-1], compressed(pack_of(EVENTS), codec="lz4"), compressed(pack_of(EVENTS), size=3)]


@pytest.mark.parametrize("payload", UNREADABLE, ids=["cut", "codec", "size"])
async def test_replay_of_a_pack_that_still_can_not_be_read_leaves_it(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged, payload: bytes
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await bury(conn, stream, 1, None, payload=payload, **UNREAD_PACK)
    assert await conn.replay_dead(stream, "billing") == 0
    assert await stored(admin, stream) == []
    assert [each.payload for each in await stored(admin, dead)] == [payload]
    assert not logged.find("stays")


async def test_replay_of_a_pack_when_the_stream_is_not_packed_leaves_it_and_says_so(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, logged: Logged
) -> None:
    """Subscriptions with a filter would not get it."""
    await conn.streams.create(stream)
    await bury(conn, stream, 1, None, payload=pack_of(EVENTS), **UNREAD_PACK)
    await bury(conn, stream, 2, 1)
    assert await conn.replay_dead(stream, "billing") == 1
    assert logged.find(f"sequence 1 is not replayed and stays: it is a pack, and stream {stream} is not packed")
    assert [each.payload for each in await stored(admin, dead)] == [pack_of(EVENTS)]


async def test_replay_of_a_pack_when_zstandard_is_missing_raises_what_to_install(
    conn: eda.Conn, admin: Admin, stream: str, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'zstandard'")

    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await bury(conn, stream, 1, None, payload=compressed(pack_of(EVENTS)), **UNREAD_PACK)
    with monkeypatch.context() as patch:
        patch.setattr(eda.compression, "_zstd", missing)
        with pytest.raises(eda.ConfigError, match=r"pip install 'eda-fast\[zstd\]'"):
            await conn.replay_dead(stream, "billing")
    assert len(await stored(admin, dead)) == 1
    assert await conn.replay_dead(stream, "billing") == 1
