"""The record of suspects, on a real server."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

import eda
import eda.suspects
from eda.api import NS
from eda.errors import ServerError, Timeout
from eda.suspects import BEGUN_BEFORE, Suspects
from helpers import Admin, Logged, until, wire_of

SUBJECT = "$KV.eda-cursors.{}.team.{}"


def event(attempt: int, sequence: int = 7) -> Any:
    return SimpleNamespace(sequence=sequence, attempt=attempt)


@pytest.fixture
async def suspects(conn: eda.Conn, stream: str) -> Suspects:
    link = conn._link
    return Suspects(wire_of(conn), link.api, logging.getLogger("eda"), stream, "team", 1)


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
    async def refuse(event: eda.Event) -> None:
        raise ServerError(403, 0, "no permission")

    logged.expect("comes again without end")
    monkeypatch.setattr(suspects, "_store", refuse)
    assert [await suspects.begin(event(3)), await suspects.begin(event(4))] == [0, 0]
    assert len(logged.find("comes again without end")) == 1


async def test_suspects_when_nobody_answers_all_wait_ever_longer(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch, stream: str, admin: Admin
) -> None:
    n_asked = 0

    async def fall_silent(*_: object, **__: object) -> None:
        nonlocal n_asked
        n_asked += 1
        raise Timeout("publish", 5.0)

    await suspects.begin(event(3, sequence=1))  # there is a bucket
    with monkeypatch.context() as patch:
        patch.setattr(eda.suspects, "publish_once", fall_silent)
        pauses = []
        for sequence in (7, 8, 9):
            pauses.append(await suspects.begin(event(3, sequence=sequence)) / NS)
            assert 0 < await suspects.begin(event(3, sequence=99)) / NS <= pauses[-1], "none is asked for meanwhile"
            suspects._not_before = 0.0
    assert pauses == [0.5, 1.0, 2.0]
    assert n_asked == 3
    assert await suspects.begin(event(3)) == 0
    suspects._not_before = 0.0


async def test_suspect_when_it_is_not_known_to_be_on_record_is_taken_off(
    suspects: Suspects, monkeypatch: pytest.MonkeyPatch
) -> None:
    await suspects.begin(event(3, sequence=1))
    store = eda.suspects.publish_once

    async def lose_the_answer(*arguments: Any, **options: Any) -> None:
        await store(*arguments, **options)
        raise Timeout("publish", 5.0)

    with monkeypatch.context() as patch:
        patch.setattr(eda.suspects, "publish_once", lose_the_answer)
        assert await suspects.begin(event(3)) > 0
    suspects._not_before = 0.0
    # Nobody has begun it, so nobody may take it for one that killed its process.
    await until(lambda: is_off(suspects))
    assert await suspects.begin(event(4)) == 0


async def is_off(suspects: Suspects) -> bool:
    return await suspects._read(event(3)) == 0
