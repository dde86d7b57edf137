"""The record of suspects, on a real server."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

import eda
import eda.handling.suspects
from eda.errors import ServerError, Timeout
from eda.handling.suspects import BEGUN_BEFORE, Suspects
from eda.jetstream.bucket import Bucket
from eda.times import NS
from helpers import Admin, Logged, until, wire_of

SUBJECT = "$KV.eda-cursors.{}.team.{}"


def event(attempt: int, sequence: int = 7) -> Any:
    return SimpleNamespace(sequence=sequence, attempt=attempt)


@pytest.fixture
async def suspects(conn: eda.Conn, stream: str) -> Suspects:
    await conn.streams.create(stream)
    return made_for(conn, stream)


def made_for(conn: eda.Conn, stream: str) -> Suspects:
    return Suspects(
        wire_of(conn), conn._lifetime.require_open().api, logging.getLogger("eda"), stream, "team", Bucket()
    )


@pytest.mark.old_server
async def test_suspect_when_begun_before_is_known_by_whoever_has_it_next(
    suspects: Suspects, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    if "KV_eda-cursors" in await admin.stream_names():
        await admin.js.delete_stream("KV_eda-cursors")
    assert await suspects.begin(event(3)) == 0  # makes the bucket
    assert await suspects.begin(event(3)) == 0  # the same delivery: an answer was lost
    assert await suspects.begin(event(4)) == BEGUN_BEFORE
    assert await suspects.begin(event(4, sequence=8)) == 0
    assert await suspects.begin(event(2)) == 0, "a consumer that was made anew counts from 1"
    await suspects.end(event(2))
    assert await suspects.begin(event(9)) == 0
    await suspects.end(event(9))
    await suspects.end(event(4, sequence=8))
    await suspects.end(event(4, sequence=8))
    kept = await admin.api("STREAM.INFO.KV_eda-cursors", {"subjects_filter": f"$KV.eda-cursors.{stream}.>"})
    assert not kept["state"].get("subjects")


@pytest.mark.parametrize("text", [b"", b"{}", b"null", b'{"v":1,"delivery":"3"}', b"\xff"])
async def test_suspect_when_the_record_is_none_is_begun(
    suspects: Suspects, conn: eda.Conn, stream: str, admin: Admin, text: bytes
) -> None:
    await suspects.begin(event(3))
    await admin.js.publish(SUBJECT.format(stream, 7), text)
    assert await suspects.begin(event(4)) == 0
    assert await suspects.begin(event(5)) == BEGUN_BEFORE


async def test_suspect_when_the_record_is_forbidden_is_handled_and_told_of_once(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    async def refuse(event: eda.Event, revision: int) -> bool:
        raise ServerError(403, 0, "no permission")

    logged.expect("delivered again without end")
    monkeypatch.setattr(suspects, "_store", refuse)
    assert [await suspects.begin(event(3)), await suspects.begin(event(4))] == [0, 0]
    assert len(logged.find("delivered again without end")) == 1


async def test_suspects_when_nobody_answers_all_wait_ever_longer(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch, stream: str, admin: Admin
) -> None:
    n_asked = 0

    async def fall_silent(wire: object, stream: str, subject: str, text: bytes, *_: object, **__: object) -> None:
        nonlocal n_asked
        n_asked += b'"delivery":0' not in text  # those take a record back
        raise Timeout("publish", 5.0)

    await suspects.begin(event(3, sequence=1))  # there is a bucket
    with monkeypatch.context() as patch:
        patch.setattr(eda.handling.suspects, "store_message", fall_silent)
        pauses = []
        for sequence in (7, 8, 9):
            pauses.append(await suspects.begin(event(3, sequence=sequence)) / NS)
            assert 0 < await suspects.begin(event(3, sequence=99)) / NS <= pauses[-1], "none is asked for meanwhile"
            suspects._not_before = 0.0
    assert pauses == [0.5, 1.0, 2.0]
    assert n_asked == 3
    await until(lambda: not suspects._voiding)
    assert await suspects.begin(event(3)) == 0
    suspects._not_before = 0.0


async def test_suspect_when_it_is_not_known_to_be_on_record_is_taken_off(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch
) -> None:
    await suspects.begin(event(3, sequence=1))
    store = eda.handling.suspects.store_message

    async def lose_the_answer(*arguments: Any, **options: Any) -> None:
        await store(*arguments, **options)
        raise Timeout("publish", 5.0)

    with monkeypatch.context() as patch:
        patch.setattr(eda.handling.suspects, "store_message", lose_the_answer)
        assert await suspects.begin(event(3)) > 0
    suspects._not_before = 0.0
    # Nobody has begun it, so nobody may take it for one that killed its process.
    await until(lambda: is_off(suspects))
    assert await suspects.begin(event(4)) == 0


async def test_suspect_when_the_stream_was_made_again_has_its_last_attempt(
    suspects: Suspects, conn: eda.Conn, stream: str
) -> None:
    assert await suspects.begin(event(3)) == 0
    await conn.streams.delete(stream)
    await conn.streams.create(stream)
    other = made_for(conn, stream)
    assert await other.begin(event(4)) == 0, "it is another event, of the same sequence"
    assert await other.begin(event(5)) == BEGUN_BEFORE
    await other.end(event(5))


async def test_suspect_when_another_member_has_it_on_record_meanwhile_leaves_that_alone(
    suspects: Suspects, conn: eda.Conn, stream: str
) -> None:
    other = made_for(conn, stream)
    assert await suspects.begin(event(3)) == 0
    other._created = suspects._created
    found = await other._read(7)
    assert await other._store(event(4), found.revision)
    await suspects.end(event(3))
    assert (await other._read(7)).record.delivery == 4
    assert not await suspects._store(event(3), found.revision), "it was written in between"
    await other.end(event(4))
    assert await is_off(other)


@pytest.mark.parametrize("late_s", [0.0, 0.6], ids=["lost", "late"])
async def test_suspect_when_its_record_arrives_after_its_clean_up_is_not_found(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch, conn: eda.Conn, stream: str, late_s: float
) -> None:
    """The record is on its way while it is given up; whatever comes first at the server, nobody finds it."""
    await suspects.begin(event(3, sequence=1))
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
    assert await suspects.begin(event(3)) > 0
    suspects._not_before = 0.0
    await until(lambda: late[0].done() and not suspects._voiding)
    assert not (await suspects._read(7)).record.delivery
    other = made_for(conn, stream)
    assert await other.begin(event(4)) == 0, "nobody had begun it"
    await other.end(event(4))


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
        assert await suspects.begin(event(3)) == 0
        await suspects.end(event(3))
        assert await is_off(suspects)
        assert await suspects.begin(event(4)) == 0
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
        assert [await suspects.begin(event(3)), await suspects.begin(event(4))] == [0, BEGUN_BEFORE]
    assert len(logged.find("delivered again without end")) == 1


async def is_off(suspects: Suspects) -> bool:
    return not (await suspects._read(7)).record.delivery and not suspects._voiding
