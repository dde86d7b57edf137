"""Members of an ordered name that die in the middle of a pack: their successor goes on with the next event of it."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, until
from support.cursors.member import Keys
from support.packs import publish_pack
from support.subscribing.members import QUICK, Members

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")

KEPT: dict[str, Any] = {"name": "team", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "serial": {"serial": True},
    "strict": {"serial": "strict"},
    "exclusive": {"exclusive": True},
    "key": {"key": "aggregate"},
    "serial batch": {"serial": True, "batch": 8},
}

Place = tuple[int, int]


@pytest.fixture
async def conn(connect: Connect, stream: str) -> eda.Conn:
    conn = await connect()
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    return conn


@pytest.fixture
def members(tmp_path: Path, server: eda.EmbeddedServer, conn: eda.Conn, stream: str) -> Iterator[Members]:
    """Members of the test's stream on the shared server."""
    made = Members(tmp_path / "journal", server.url, stream)
    yield made
    made.end()


async def fill(admin: Admin, stream: str, *sizes: int) -> list[Place]:
    """Store a pack for each size; returns the places of all events."""
    places: list[Place] = []
    for size in sizes:
        events = [eda.Event(id=f"e{len(places) + n}", aggregate=str(n % 10)) for n in range(size)]
        sequence = await publish_pack(admin.js, stream, events)
        places += [(sequence, index) for index in range(size)]
    return places


def orders(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "options": KEPT | KINDS[kind],
        "retry": {"initial_s": 0.02, "factor": 1},
        "constants": QUICK,
        "sleep_s": 0.002,
    } | more


@pytest.mark.parametrize("kind", KINDS)
async def test_member_when_killed_at_event_40_of_a_pack_is_followed_from_there(
    stream: str, admin: Admin, members: Members, kind: str
) -> None:
    """Event 17 has failed before. What is done and stored comes no more."""
    places = await fill(admin, stream, 10, 100, 5)
    await members.start("a", **orders(kind, kill_at="2.40", fail_at=["2.17"], slow={"2.40": 0.2}))
    await members.start("b", **orders(kind, sleep_s=0.0))
    await until(lambda: members.has_died("a"), 20)
    value = await Keys(admin, stream, "team").get()
    assert value is not None
    if kind == "serial batch":
        assert (value["seq"], value["idx"], value["part"]) == (1, 38, 2)  # where its list began
    elif kind != "key":
        assert (value["seq"], value["idx"], value["part"]) == (1, 40, 2)
    await members.until_handled(len(places))
    begun = [(line.sequence, line.index) for line in members.lines() if (line.member, line.what) == ("b", "begin")]
    done = {place for place in places if place[0] == 1 or (place[0] == 2 and place[1] < value["idx"])}
    assert not done & set(begun)
    assert sorted(set(members.handled_places())) == places
    again = members.places_again_after(members.killed_ns["a"])
    if kind in ("serial", "strict", "exclusive"):
        assert again == []
        assert begun[0] == (2, 40)
    attempts = {call.place: call.attempt for call in members.calls() if call.member == "b"}
    assert attempts.pop(begun[0]) == 2  # a process has died at it
    assert set(attempts.values()) == {1}


@pytest.mark.parametrize("kind", ["serial", "strict", "key"])
async def test_event_of_a_pack_when_it_kills_every_process_is_given_up_and_no_other(
    stream: str, admin: Admin, members: Members, kind: str
) -> None:
    places = await fill(admin, stream, 3, 60, 3)
    names = ["a", "b", "c", "d"]
    given = orders(kind, kill_at="2.30") | {"retry": {"max_attempts": 2}}
    await members.start(*names, **given)
    await members.until_handled(len(places) - 1, 30)
    kills = [call for call in members.calls() if call.outcome == "killed"]
    assert {call.place for call in kills} == {(2, 30)}
    assert 2 <= len(kills) <= 3
    assert sorted(set(members.handled_places())) == [place for place in places if place != (2, 30)]
    letter = await until(lambda: asyncio.ensure_future(letter_of(admin, stream)))
    assert letter["Eda-Dead-Sequence"] == "2"
    assert letter["Eda-Dead-Reason"] == "attempts"
    await admin.js.delete_stream(f"{stream}-dead")


async def letter_of(admin: Admin, stream: str) -> dict[str, str]:
    message = await admin.js.get_msg(f"{stream}-dead", 1)
    return message.headers or {}


async def test_members_when_killed_one_after_the_other_lose_and_reorder_nothing(
    stream: str, admin: Admin, members: Members
) -> None:
    """Serial: each member is killed at a moment of its own, mostly within a pack."""
    places = await fill(admin, stream, *(50, 1, 70, 2, 90))
    names = ["a", "b", "c", "d", "e"]
    await members.start(*names, **orders("serial", fail_at=["3.7", "5.50"]))
    for n in (20, 70, 110, 150):
        await members.until_handled(n)
        await members.kill(members.calls()[-1].member)
    await members.until_handled(len(places), 30)
    handled = members.handled_places()
    firsts = list(dict.fromkeys(handled))
    assert firsts == places
    assert len(handled) - len(firsts) <= 4 * 20  # what was done within the last moments before a kill
    calls = members.calls()
    assert all(one.end_ns <= other.begin_ns for one, other in itertools.pairwise(calls))


async def test_member_when_it_closes_in_the_middle_of_a_pack_gives_the_rest_to_a_standby_at_once(
    stream: str, admin: Admin, members: Members
) -> None:
    await members.start("a", "b", **orders("serial", sleep_s=0.01))
    places = await fill(admin, stream, 100)
    await members.until_handled(30)
    closed_ns = await members.close("a")
    await members.until_handled(len(places))
    assert members.handled_places() == places
    first = next(call for call in members.calls() if call.member == "b")
    assert first.begin_ns - closed_ns < 1_000_000_000
    assert {call.attempt for call in members.calls()} == {1}


async def test_member_when_frozen_in_a_pack_and_back_goes_on_where_the_other_one_was(
    stream: str, admin: Admin, members: Members
) -> None:
    """The frozen one loses the cursor, and takes it over again from the one that is killed in the same pack."""
    await members.start("a", "b", **orders("serial", sleep_s=0.01))
    places = await fill(admin, stream, 250, 3)
    await members.until_handled(40)
    members.send("a", signal.SIGSTOP)
    await until(lambda: members.times("b", "begin"), 10)
    members.send("a", signal.SIGCONT)
    await members.until_handled(120)
    await members.kill("b")
    await members.until_handled(len(places), 30)
    handled = members.handled_places()
    firsts = list(dict.fromkeys(handled))
    assert firsts == places
    assert [call.member for call in members.calls()][-1] == "a"
    assert len(handled) - len(firsts) <= 10  # the one that the frozen handler ended, and what was not yet stored
