"""conn.dead_letters and conn.drop_dead: what was given up and why, read without a trace, and removed."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
from eda._codec import encode_event
from eda._pack import place_of
from helpers import Admin
from support.dead_letters.letters import bury, died, stored
from support.packs import pack_of


@pytest.fixture
async def dead(admin: Admin, stream: str) -> AsyncIterator[str]:
    """The dead-letter stream of `stream`."""
    yield f"{stream}-dead"
    with suppress(NatsError):
        await admin.js.delete_stream(f"{stream}-dead")


async def listed(conn: eda.Conn, stream: str, *arguments: Any, **options: Any) -> list[eda.DeadLetter]:
    return [letter async for letter in conn.dead_letters(stream, *arguments, **options)]


@pytest.mark.old_server
async def test_letters_when_read_tell_what_was_given_up_and_why(conn: eda.Conn, stream: str, dead: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    event = died(7, aggregate="47 11", data=eda.JSON({"a": 1}), meta={"k": "v"})
    await bury(
        conn, stream, 7, payload=encode_event(event), reason="rejected", error="no\nstöck", foreign={"Trace": "t1"}
    )
    (letter,) = await listed(conn, stream)
    assert (letter.sequence, letter.dead_letter, letter.subscription, letter.stream) == (1, dead, "billing", stream)
    assert (letter.event_sequence, letter.event_index, letter.place) == (7, None, "7")
    assert (letter.reason, letter.error, letter.attempts) == ("rejected", "no\nstöck", 3)
    assert letter.time is not None
    assert before < letter.time < datetime.now(UTC) + timedelta(seconds=5)
    assert letter.event is not None
    assert letter.event.replace(stream="") == event
    assert (letter.event.sequence, letter.event.stream, letter.event_id) == (7, stream, "e7")
    assert (letter.no_event, letter.omitted_bytes, letter.headers) == ("", 0, {"Trace": "t1"})
    assert letter.is_letter
    assert pickle.loads(pickle.dumps(letter)) == letter
    assert hash(letter) == hash(pickle.loads(pickle.dumps(letter)))


@pytest.mark.old_server
async def test_letters_when_chosen_are_those_of_name_reason_time_and_sequence(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await bury(conn, stream, 1)
    await bury(conn, stream, 2, name="shipping", reason="rejected")
    await bury(conn, stream, 3, stream="elsewhere")
    await admin.js.publish(f"{dead}.foreign", b"no letter at all")
    await bury(conn, stream, 4, reason="rejected")
    for arguments, options, sequences in (
        ([], {}, [1, 2, 5]),
        (["billing"], {}, [1, 5]),
        ([], {"reason": "rejected"}, [2, 5]),
        (["billing"], {"reason": "rejected"}, [5]),
        ([], {"sequences": [5, 2, 3, 4, 99]}, [2, 5]),
        ([], {"sequences": []}, []),
        ([], {"limit": 2}, [1, 2]),
        ([], {"since": datetime.now(UTC) + timedelta(hours=1)}, []),
        ([], {"since": datetime.now(UTC) - timedelta(hours=1)}, [1, 2, 5]),
        ([], {"others": True}, [1, 2, 3, 4, 5]),
    ):
        assert [each.sequence for each in await listed(conn, stream, *arguments, **options)] == sequences
    foreign = (await listed(conn, stream, others=True))[3]
    assert not foreign.is_letter
    assert (foreign.reason, foreign.subscription, foreign.place, foreign.payload) == ("", "", "", b"no letter at all")


@pytest.mark.old_server
async def test_letters_when_there_are_gaps_are_each_read_once_in_order(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    for number in range(60):
        await bury(conn, stream, number + 1)
    gone = {*range(5, 25), 40, 60}
    for sequence in gone:
        await admin.api(f"STREAM.MSG.DELETE.{dead}", {"seq": sequence})
    assert [each.sequence for each in await listed(conn, stream)] == [n for n in range(1, 61) if n not in gone]


@pytest.mark.old_server
async def test_letters_when_they_are_no_events_say_why(conn: eda.Conn, stream: str, dead: str) -> None:
    await bury(conn, stream, 1, reason="undecodable", payload=b"\xff\xfe", event_type="", event_id="x1")
    pack = pack_of([eda.Event(id=f"p{n}", type="t") for n in range(3)])
    await bury(conn, stream, 2, reason="undecodable", payload=pack, event_type="")
    await bury(conn, stream, 3, index=1)
    foreign, whole, single = await listed(conn, stream)
    assert foreign.event is None
    assert foreign.no_event.startswith("it is not an event: ")
    assert (foreign.payload, foreign.event_id) == (b"\xff\xfe", "x1")
    assert (whole.event, whole.event_index, whole.place) == (None, None, "2")
    assert whole.no_event == "it is a pack of 3 events, which the subscription could not read"
    assert (single.event_index, single.place) == (1, "3.1")
    assert single.event is not None
    assert (single.event.id, single.event.sequence, single.event.index) == ("e3", 3, 1)
    assert place_of(single.event) == single.place


async def test_letters_when_the_index_is_none_of_a_pack_are_listed(conn: eda.Conn, stream: str, dead: str) -> None:
    await bury(conn, stream, 3, index=2**40)
    (letter,) = await listed(conn, stream)
    assert letter.event_index == 2**40
    assert letter.event is not None
    assert letter.event.index == 0


@pytest.mark.old_server
async def test_letters_when_the_payload_was_too_large_have_it_while_the_stream_has_it(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    big = died(1, data=eda.Bytes(b"x" * 5000))
    await conn.publish(stream, big)
    (message,) = await stored(admin, stream)
    await conn.streams.create(dead)
    await admin.api(f"STREAM.UPDATE.{dead}", {**await config_of(admin, dead), "max_msg_size": 4000})
    await bury(conn, stream, 1, payload=message.payload)
    (letter,) = await listed(conn, stream)
    assert letter.omitted_bytes == len(letter.payload) == len(message.payload)
    assert letter.event is not None
    assert letter.event.data.decode() == b"x" * 5000
    await conn.streams.purge(stream)
    (letter,) = await listed(conn, stream)
    assert (letter.event, letter.payload, letter.omitted_bytes) == (None, b"", len(message.payload))
    assert letter.no_event == (
        f"its payload was too large for the letter, and its payload is gone from stream {stream}, sequence 1"
    )
    await conn.streams.delete(stream)
    (letter,) = await listed(conn, stream)
    assert letter.no_event.endswith(f"stream {stream} does not exist any more")


async def config_of(admin: Admin, stream: str) -> dict[str, Any]:
    config: dict[str, Any] = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    return config


@pytest.mark.old_server
async def test_letters_when_read_leave_no_trace_on_the_server(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await bury(conn, stream, 1)
    before = await admin.api(f"STREAM.INFO.{dead}")
    await listed(conn, stream)
    after = await admin.api(f"STREAM.INFO.{dead}")
    assert (before["state"], before["config"]) == (after["state"], after["config"])
    assert after["state"]["consumer_count"] == 0


@pytest.mark.old_server
async def test_drop_when_it_chooses_removes_those_and_nothing_else(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await bury(conn, stream, 1)
    await bury(conn, stream, 2, name="shipping")
    await bury(conn, stream, 3, stream="elsewhere")
    await admin.js.publish(f"{dead}.foreign", b"no letter at all")
    await bury(conn, stream, 4, reason="rejected")
    await bury(conn, stream, 5)
    assert await conn.drop_dead(stream, sequences=[3, 4]) == 0
    assert await conn.drop_dead(stream, "billing", reason="rejected") == 1
    assert await conn.drop_dead(stream, "billing", limit=1) == 1
    assert [each.sequence for each in await stored(admin, dead)] == [2, 3, 4, 6]
    assert await conn.drop_dead(stream) == 2
    assert [each.sequence for each in await stored(admin, dead)] == [3, 4]
    assert await conn.drop_dead(stream) == 0


@pytest.mark.old_server
async def test_replay_when_sequences_are_named_replays_those_of_its_name(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await conn.publish(stream)
    await bury(conn, stream, 1)
    await bury(conn, stream, 2, name="shipping")
    await bury(conn, stream, 3)
    await bury(conn, stream, 4)
    assert await conn.replay_dead(stream, "billing", sequences=[4, 2, 1, 1]) == 2
    assert [each.sequence for each in await stored(admin, dead)] == [2, 3]


@pytest.mark.old_server
async def test_letters_when_there_are_none_yet_raise_stream_not_found(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.StreamNotFound) as caught:
        await listed(conn, stream)
    assert caught.value.stream == f"{stream}-dead"
    with pytest.raises(eda.StreamNotFound):
        await conn.drop_dead(stream)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("name", "a b"),
        ("reason", 1),
        ("since", datetime(2026, 1, 1)),
        ("since", "1h"),
        ("sequences", [0]),
        ("sequences", [True]),
        ("sequences", "12"),
        ("sequences", 5),
        ("sequences", range(1, 200_000)),
        ("limit", 0),
        ("dead_letter", "a.b"),
        ("dead_letter", "{stream}"),
    ],
)
async def test_letters_when_an_argument_is_wrong_name_it(
    conn: eda.Conn, stream: str, argument: str, value: object
) -> None:
    with pytest.raises(eda.ConfigError) as caught:
        conn.dead_letters(stream, **{argument: value})  # type: ignore[arg-type]
    assert caught.value.argument == argument
    if argument != "since":
        with pytest.raises(eda.ConfigError):
            await conn.drop_dead(stream, **{argument: value})  # type: ignore[arg-type]


async def test_drop_when_the_stream_allows_no_deletion_is_refused(
    conn: eda.Conn, admin: Admin, stream: str, dead: str
) -> None:
    await admin.api(
        f"STREAM.CREATE.{dead}", {"name": dead, "subjects": [dead, f"{dead}.>"], "deny_delete": True, "storage": "file"}
    )
    with pytest.raises(eda.ConfigError, match="allows nobody to delete"):
        await conn.drop_dead(stream)
