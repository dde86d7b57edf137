"""The record of suspects, on a real server."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest

import eda
import eda.handling.suspects
from eda._codec import encode_event, stored_event
from eda._pack import stored_events
from eda.errors import ServerError, Timeout
from eda.handling._outcome import attempted
from eda.handling.suspects import BEGUN_BEFORE, Suspects
from eda.handling.verdicts import Suspect
from eda.jetstream.bucket import Bucket
from eda.times import NS
from helpers import Admin, Logged, until, wire_of
from support.packs import pack_of

SUBJECT = "$KV.eda-cursors.{}.team.{}"


ENVELOPE = encode_event(eda.Event(type="t", id="i"))


def event(attempt: int, sequence: int = 7) -> eda.Event:
    """An event whose message was delivered so often."""
    return attempted(stored_event(ENVELOPE, "s", sequence, 1, b""), attempt)


def event_of_pack(attempt: int, index: int = 3) -> eda.Event:
    pack = pack_of([eda.Event(type="t")] * (index + 1))
    found = stored_events(pack, "s", 7, 1)[index]
    assert found is not None
    return attempted(found, attempt)


async def begin(suspects: Suspects, event: eda.Event, delivery: int = 0) -> int:
    return await suspects.begin(event, Suspect(delivery or event.attempt))


async def end(suspects: Suspects, event: eda.Event) -> None:
    await suspects.end(event, Suspect(event.attempt))


@pytest.fixture
async def suspects(conn: eda.Conn, stream: str) -> Suspects:
    await conn.streams.create(stream)
    return made_for(conn, stream)


def made_for(conn: eda.Conn, stream: str) -> Suspects:
    return Suspects(
        wire_of(conn), conn._lifetime.require_open().api, logging.getLogger("eda"), stream, "team", Bucket(), 3
    )


@pytest.mark.old_server
async def test_suspect_when_begun_before_is_known_by_whoever_has_it_next(
    suspects: Suspects, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    if "KV_eda-cursors" in await admin.stream_names():
        await admin.js.delete_stream("KV_eda-cursors")
    assert await begin(suspects, event(3)) == 0  # makes the bucket
    assert await begin(suspects, event(3)) == 0  # the same delivery: an answer was lost
    assert await begin(suspects, event(4)) == BEGUN_BEFORE
    assert await begin(suspects, event(4, sequence=8)) == 0
    assert await begin(suspects, event(2)) == 0, "a consumer that was made anew counts from 1"
    await end(suspects, event(2))
    assert await begin(suspects, event(9)) == 0
    await end(suspects, event(9))
    await end(suspects, event(4, sequence=8))
    await end(suspects, event(4, sequence=8))
    kept = await admin.api("STREAM.INFO.KV_eda-cursors", {"subjects_filter": f"$KV.eda-cursors.{stream}.>"})
    assert not kept["state"].get("subjects")


@pytest.mark.parametrize("text", [b"", b"{}", b"null", b'{"v":1,"delivery":"3"}', b"\xff"])
async def test_suspect_when_the_record_is_none_is_begun(
    suspects: Suspects, conn: eda.Conn, stream: str, admin: Admin, text: bytes
) -> None:
    await begin(suspects, event(3))
    await admin.js.publish(SUBJECT.format(stream, 7), text)
    assert await begin(suspects, event(4)) == 0
    assert await begin(suspects, event(5)) == BEGUN_BEFORE


async def test_suspect_when_the_record_is_forbidden_is_handled_and_told_of_once(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    async def refuse(place: str, delivery: int, begun: int, found: object) -> bool:
        raise ServerError(403, 0, "no permission")

    logged.expect("delivered again without end")
    monkeypatch.setattr(suspects, "_store", refuse)
    assert [await begin(suspects, event(3)), await begin(suspects, event(4))] == [0, 0]
    assert len(logged.find("delivered again without end")) == 1


async def test_suspects_when_nobody_answers_all_wait_ever_longer(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch, stream: str, admin: Admin
) -> None:
    n_asked = 0

    async def fall_silent(wire: object, stream: str, subject: str, text: bytes, *_: object, **__: object) -> None:
        nonlocal n_asked
        n_asked += b'"delivery":0' not in text  # those take a record back
        raise Timeout("publish", 5.0)

    await begin(suspects, event(3, sequence=1))  # there is a bucket
    with monkeypatch.context() as patch:
        patch.setattr(eda.handling.suspects, "store_message", fall_silent)
        pauses = []
        for sequence in (7, 8, 9):
            pauses.append(await begin(suspects, event(3, sequence=sequence)) / NS)
            assert 0 < await begin(suspects, event(3, sequence=99)) / NS <= pauses[-1], "none is asked for meanwhile"
            suspects._not_before = 0.0
    assert pauses == [0.5, 1.0, 2.0]
    assert n_asked == 3
    await until(lambda: not suspects._voiding)
    assert await begin(suspects, event(3)) == 0
    suspects._not_before = 0.0


async def test_suspect_when_it_is_not_known_to_be_on_record_is_taken_off(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(suspects, event(3, sequence=1))
    store = eda.handling.suspects.store_message

    async def lose_the_answer(*arguments: Any, **options: Any) -> None:
        await store(*arguments, **options)
        raise Timeout("publish", 5.0)

    with monkeypatch.context() as patch:
        patch.setattr(eda.handling.suspects, "store_message", lose_the_answer)
        assert await begin(suspects, event(3)) > 0
    suspects._not_before = 0.0
    # Nobody has begun it, so nobody may take it for one that killed its process.
    await until(lambda: is_off(suspects))
    assert await begin(suspects, event(4)) == 0


async def test_suspect_when_the_connection_was_lost_before_the_answer_is_put_on_record_and_taken_off(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch, stream: str, admin: Admin
) -> None:
    """The server has the record. The answer 503 means that the bucket may be missing, so it is written once more."""
    await begin(suspects, event(3, sequence=1))
    store = eda.handling.suspects.store_message
    n_stored = 0

    async def lose_the_connection(*arguments: Any, **options: Any) -> Any:
        nonlocal n_stored
        answer = await store(*arguments, **options)
        n_stored += 1
        if n_stored == 1:
            raise ServerError(503, 0, "the connection was lost before the answer came")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(eda.handling.suspects, "store_message", lose_the_connection)
        assert await begin(suspects, event(3)) == 0
    assert n_stored == 2
    assert await begin(suspects, event(4)) == BEGUN_BEFORE
    await end(suspects, event(4))
    kept = await admin.api("STREAM.INFO.KV_eda-cursors", {"subjects_filter": SUBJECT.format(stream, 7)})
    assert not kept["state"].get("subjects")


async def test_suspect_when_the_stream_was_made_again_has_its_last_attempt(
    suspects: Suspects, conn: eda.Conn, stream: str
) -> None:
    assert await begin(suspects, event(3)) == 0
    await conn.streams.delete(stream)
    await conn.streams.create(stream)
    other = made_for(conn, stream)
    assert await begin(other, event(4)) == 0, "it is another event, of the same sequence"
    assert await begin(other, event(5)) == BEGUN_BEFORE
    await end(other, event(5))


async def test_suspect_when_another_member_has_it_on_record_meanwhile_leaves_that_alone(
    suspects: Suspects, conn: eda.Conn, stream: str
) -> None:
    other = made_for(conn, stream)
    assert await begin(suspects, event(3)) == 0
    other._created = suspects._created
    found = await other._read("7")
    assert await other._store("7", 4, 0, found)
    await end(suspects, event(3))
    assert (await other._read("7")).record.delivery == 4
    assert not await suspects._store("7", 3, 0, found), "it was written in between"
    await end(other, event(4))
    assert await is_off(other)


@pytest.mark.parametrize("late_s", [0.0, 0.6], ids=["lost", "late"])
async def test_suspect_when_its_record_arrives_after_its_clean_up_is_not_found(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch, conn: eda.Conn, stream: str, late_s: float
) -> None:
    """The record is on its way while it is given up; whatever comes first at the server, nobody finds it."""
    await begin(suspects, event(3, sequence=1))
    store = eda.handling.suspects.store_message
    late: list[asyncio.Task[Any]] = []

    async def hold_back(*arguments: Any, **options: Any) -> Any:
        if late:
            return await store(*arguments, **options)

        async def send() -> None:
            await asyncio.sleep(late_s)
            with suppress(ServerError):
                await store(*arguments, **options)

        late.append(asyncio.create_task(send()))
        raise Timeout("publish", 5.0)

    monkeypatch.setattr(eda.handling.suspects, "store_message", hold_back)
    assert await begin(suspects, event(3)) > 0
    suspects._not_before = 0.0
    await until(lambda: late[0].done() and not suspects._voiding)
    assert not (await suspects._read("7")).record.delivery
    other = made_for(conn, stream)
    assert await begin(other, event(4)) == 0, "nobody had begun it"
    await end(other, event(4))


@pytest.mark.old_server
async def test_suspect_when_purges_are_denied_is_taken_off_all_the_same(
    own_server: eda.EmbeddedServer, stream: str, logged: Logged
) -> None:
    async with eda.connect(own_server.url, client="c") as conn:
        await conn.streams.create(stream)
        settings = {"name": "KV_eda-cursors", "subjects": ["$KV.eda-cursors.>"], "deny_purge": True}
        assert conn._lifetime._services is not None
        await conn._lifetime._services.api.request(
            "STREAM.CREATE.KV_eda-cursors", settings | {"max_msgs_per_subject": 1}
        )
        suspects = made_for(conn, stream)
        assert await begin(suspects, event(3)) == 0
        await end(suspects, event(3))
        assert await is_off(suspects)
        assert await begin(suspects, event(4)) == 0
    assert not logged.find("stays on record")


async def test_suspects_when_the_bucket_forgets_say_so_once_and_go_on(
    own_server: eda.EmbeddedServer, stream: str, logged: Logged
) -> None:
    logged.expect(r"again without end: the bucket eda-cursors \(stream KV_eda-cursors\) has max_age=1000000000:")
    async with eda.connect(own_server.url, client="c") as conn:
        await conn.streams.create(stream)
        assert conn._lifetime._services is not None
        settings = {"name": "KV_eda-cursors", "subjects": ["$KV.eda-cursors.>"], "max_age": NS, "duplicate_window": NS}
        await conn._lifetime._services.api.request("STREAM.CREATE.KV_eda-cursors", settings)
        suspects = made_for(conn, stream)
        assert [await begin(suspects, event(3)), await begin(suspects, event(4))] == [0, BEGUN_BEFORE]
    assert len(logged.find("delivered again without end")) == 1


async def is_off(suspects: Suspects, place: str = "7") -> bool:
    return not (await suspects._read(place)).record.delivery and not suspects._voiding


# --- events of packs -------------------------------------------------------------------------------------------------


async def test_event_of_a_pack_when_begun_in_earlier_deliveries_is_given_up_after_max_attempts(
    suspects: Suspects, conn: eda.Conn, stream: str
) -> None:
    for delivery, n_before in ((2, 0), (3, 1), (4, 2)):
        suspect = Suspect(delivery)
        assert await suspects.begin(event_of_pack(1), suspect) == 0
        assert suspect.n_begun == n_before
        assert await suspects.begin(event_of_pack(1, index=delivery + 10), Suspect(delivery)) == 0, "another event"
    other = made_for(conn, stream)
    suspect = Suspect(5)
    assert await other.begin(event_of_pack(1), suspect) == BEGUN_BEFORE
    assert suspect.n_begun == 3
    await other.end(event_of_pack(1), Suspect(5))
    assert await is_off(other, "7.3")


async def test_event_of_a_pack_when_it_has_failed_before_continues_to_count(
    suspects: Suspects, conn: eda.Conn, stream: str
) -> None:
    assert await suspects.begin(event_of_pack(2), Suspect(1)) == 0, "the first delivery, the second attempt"
    other = made_for(conn, stream)
    suspect = Suspect(2)
    assert await other.begin(event_of_pack(1), suspect) == 0
    assert suspect.n_begun == 2
    assert (await other._read("7.3")).record.begun == 3


async def test_event_of_a_pack_when_not_begun_after_all_is_on_record_as_before(
    suspects: Suspects, conn: eda.Conn, stream: str
) -> None:
    suspect = Suspect(2)
    assert await suspects.begin(event_of_pack(1), suspect) == 0
    await suspects.end(event_of_pack(1), suspect, is_begun=False)
    assert await is_off(suspects, "7.3")
    assert await suspects.begin(event_of_pack(2), suspect) == 0
    await suspects.end(event_of_pack(2), suspect, is_begun=False)
    assert (await suspects._read("7.3")).record.begun == 1
    assert await suspects.begin(event_of_pack(2), suspect) == 0
    assert (await suspects._read("7.3")).record.begun == 2
    await suspects.end(event_of_pack(2), suspect)
    assert await is_off(suspects, "7.3")


@pytest.mark.parametrize("is_stored", [False, True], ids=["not stored", "stored"])
async def test_event_of_a_pack_when_an_answer_is_lost_is_on_record_as_before(
    suspects: Suspects, conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    assert await suspects.begin(event_of_pack(2), Suspect(1)) == 0
    other = made_for(conn, stream)
    store = eda.handling.suspects.store_message
    n_sent = 0

    async def lose_the_answer(*arguments: Any, **options: Any) -> Any:
        nonlocal n_sent
        n_sent += 1
        if n_sent > 1:
            return await store(*arguments, **options)
        if is_stored:
            await store(*arguments, **options)
        raise Timeout("publish", 5.0)

    suspect = Suspect(2)
    with monkeypatch.context() as patch:
        patch.setattr(eda.handling.suspects, "store_message", lose_the_answer)
        assert await other.begin(event_of_pack(1), suspect) > 0
        await until(lambda: not other._voiding)
    record = (await other._read("7.3")).record
    assert (record.delivery, record.begun) == (1, 2)
    other._not_before = 0.0
    assert await other.begin(event_of_pack(1), suspect) == 0
    assert suspect.n_begun == 2
    assert (await other._read("7.3")).record.begun == 3


async def test_event_of_a_pack_when_its_record_is_gone_counts_what_is_known_here(
    suspects: Suspects, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    assert await suspects.begin(event_of_pack(2), Suspect(1)) == 0
    other = made_for(conn, stream)
    suspect = Suspect(2)
    assert await other.begin(event_of_pack(1), suspect) == 0
    await admin.api("STREAM.PURGE.KV_eda-cursors", {"filter": SUBJECT.format(stream, "7.3")})
    assert await other.begin(event_of_pack(1), suspect) == 0
    assert (await other._read("7.3")).record.begun == 3


async def test_pack_when_given_back_is_forgotten_here_and_stays_on_record(suspects: Suspects) -> None:
    for index in range(3):
        assert await suspects.begin(event_of_pack(1, index), Suspect(2)) == 0
    assert await begin(suspects, event(3)) == 0
    suspects.end_pack(7, is_acknowledged=False)
    await suspects.end(event_of_pack(1, 0), Suspect(2))  # its handler has just ended
    await asyncio.sleep(0)
    assert list(suspects._recorded) == ["7"]
    assert await is_off(suspects, "7.0")
    assert [(await suspects._read(f"7.{index}")).record.begun for index in (1, 2)] == [1, 1]
