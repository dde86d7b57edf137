"""Dead letters of packs whose events kill processes, and of packs whose processes die while a letter is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
from helpers import Admin, until
from support.dead_letters.letters import Stored, stored
from support.packs import envelopes_of, publish_pack
from support.subscribing.members import QUICK, Members

EVENTS = [eda.Event(id=f"e{number}", type="t", aggregate=str(number % 3)) for number in range(12)]
KEPT: dict[str, Any] = {"name": "team", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {"shared": {}, "serial": {"serial": True}, "key": {"key": "aggregate"}}
CONSTANTS = QUICK | {"eda.options.DEFAULT_LEASE_S": 1.0, "eda.subscribing.monitor.TICK_MAX_S": 0.1}


@pytest.fixture
async def packed(conn: eda.Conn, admin: Admin, stream: str) -> AsyncIterator[str]:
    """A packed stream with one pack of EVENTS. Its dead-letter stream is deleted afterwards."""
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await publish_pack(admin.js, stream, EVENTS)
    yield stream
    with suppress(NatsError):
        await admin.js.delete_stream(f"{stream}-dead")


@pytest.fixture
def members(tmp_path: Path, server: eda.EmbeddedServer, packed: str) -> Iterator[Members]:
    """Members of the test's stream on the shared server."""
    made = Members(tmp_path / "journal", server.url, packed)
    yield made
    made.end()


def indexes(members: Members, what: str) -> list[int]:
    return [line.index for line in members.lines() if line.what == what]


async def only_letter(members: Members, admin: Admin, stream: str, index: int) -> Stored:
    """Return the letter of one event of the pack, and check that all other events are handled and have none."""
    assert set(indexes(members, "end")) == set(range(len(EVENTS))) - {index}
    (letter,) = await stored(admin, f"{stream}-dead")
    assert letter.headers["Nats-Msg-Id"] == f"dead:team:1.{index}"
    assert letter.headers["Eda-Dead-Index"] == str(index)
    assert letter.payload == envelopes_of(EVENTS)[index]
    return letter


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_attempts", [2, 3])
async def test_event_of_a_pack_when_it_kills_every_process_says_in_its_letter_how_often_it_was_tried(
    packed: str, admin: Admin, members: Members, kind: str, max_attempts: int
) -> None:
    """The first kill counts for no event of the pack in a shared subscription: it leaves no record."""
    orders: dict[str, Any] = {"options": KEPT | KINDS[kind], "retry": {"max_attempts": max_attempts}}

    def is_over() -> bool:
        return len(set(indexes(members, "end"))) == len(EVENTS) - 1 and bool(indexes(members, "storing"))

    for name in "abcde":
        await members.start(name, **orders, kill_at="1.7", sleep_s=0.02, constants=CONSTANTS)
        await until(lambda name=name: members.has_died(name) or is_over(), 30)
        if not members.has_died(name):
            await members.close(name)
            break
    assert indexes(members, "killed") == [7] * (max_attempts + 1 if kind == "shared" else max_attempts)
    letter = await only_letter(members, admin, packed, 7)
    assert letter.headers["Eda-Dead-Reason"] == "attempts"
    assert letter.headers["Eda-Dead-Attempts"] == str(max_attempts)


@pytest.mark.parametrize("kind", KINDS)
async def test_process_when_killed_while_it_stores_the_letter_of_an_event_of_a_pack_leaves_one_letter(
    packed: str, admin: Admin, members: Members, kind: str
) -> None:
    """SIGKILL before the letter is stored, during this, and after. All three belong to the same event."""
    orders: dict[str, Any] = {"options": KEPT | KINDS[kind], "constants": CONSTANTS, "misfit": "1.5"}
    for when in ("before", "during", "after"):
        await members.start(when, **orders, kill_storing=when)
        await until(lambda when=when: members.has_died(when), 20)
        assert members.times(when, "storing")
    await members.start("last", **orders)
    await until(lambda: len(set(indexes(members, "end"))) == len(EVENTS) - 1, 20)
    await members.close("last")
    letter = await only_letter(members, admin, packed, 5)
    assert letter.headers["Eda-Dead-Reason"] == "undecodable"
