"""Members that die in the middle of a pack: another one goes on there, and no event of the pack is lost or given up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, until
from support.cursors.member import Keys
from support.dead_letters.letters import Stored as Letter
from support.dead_letters.letters import stored as stored_letters
from support.faults.evidence import (
    Place,
    Stored,
    assert_each_handled,
    assert_key_order,
    assert_no_repeat_without_fault,
    assert_serial_order,
    place_of_text,
    read_stream,
)
from support.faults.scene import IS_LONG, KINDS, LISTS
from support.subscribing.members import QUICK, QUICK_LEASES, Members

N = 60  # events of a pack
ORDERED = {"serial": KINDS["serial"], "strict": KINDS["serial"] | {"serial": "strict"}, "key": KINDS["key"]} | LISTS


@pytest.fixture
def members(own_server: eda.EmbeddedServer, tmp_path: Path) -> Iterator[Members]:
    members = Members(tmp_path / "journal", own_server.url, "stream")
    yield members
    members.end()


@pytest.fixture
async def stored(own_server: eda.EmbeddedServer) -> list[Stored]:
    """A stream with two packs of N events."""
    async with eda.connect(own_server.url) as conn:
        await conn.streams.create("stream", eda.StreamOptions(packed=True))
        async with conn.publisher("stream", pack=eda.Pack(max_events=N, linger_s=10)) as publisher:
            await publisher.send_many([eda.Event(type="t", aggregate=str(i % 20)) for i in range(2 * N)])
    stored = await read_stream(own_server.url, "stream")
    assert [each.place for each in stored] == [(sequence, index) for sequence in (1, 2) for index in range(N)]
    return stored


def orders(kind: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"options": kind | {"name": "team"}, "constants": QUICK | QUICK_LEASES} | more


def places(members: Members, what: str, member: str = "") -> list[Place]:
    """Return the events to which that happened, in order."""
    return [line.place for line in members.evidence() if line.what == what and member in ("", line.member)]


async def the_letter(admin: Admin) -> Letter:
    """Return the only dead letter."""
    (letter,) = await stored_letters(admin, "stream-dead")
    return letter


# --- a member dies, another goes on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORDERED if IS_LONG else ["key", "lists"])
async def test_ordered_member_when_it_dies_in_the_middle_of_a_pack_is_followed_there(
    stored: list[Stored], admin: Admin, members: Members, kind: str
) -> None:
    """The other member waits to take over. It repeats only what was handled since the position was stored."""
    at = "1.47"
    await members.start("one", **orders(ORDERED[kind], kill_at=at, sleep_s=0.01))
    await members.start("two", **orders(ORDERED[kind]))
    await until(lambda: members.has_died("one"), 20)
    killed_ns = members.killed_ns["one"]
    value = await Keys(admin, "stream", "team").get()
    assert value is not None
    assert value["v"] == 2
    kept = (value["part"], value["idx"]) if value["idx"] else (value["seq"] + 1, 0)
    assert (1, 0) < kept <= place_of_text(at)
    await members.until_handled(2 * N)
    await members.close("two")
    began = places(members, "begin", "two")
    again = members.places_again_after(killed_ns)
    if kind in ("strict", "serial"):
        assert began[0] == kept
        assert again == [(1, index) for index in range(kept[1], place_of_text(at)[1])]
    assert all(place >= kept for place in [*again, *began])
    if kind == "strict":
        assert kept == place_of_text(at), "strict repeats no event that has ended"
    lines = members.evidence()
    assert_each_handled(lines, stored)
    assert_no_repeat_without_fault(lines)
    (assert_key_order if kind == "key" else assert_serial_order)(lines, stored)


@pytest.mark.parametrize("max_attempts", [None, 3])
async def test_shared_member_when_it_dies_while_one_event_fails_leaves_the_whole_pack_to_the_next(
    stored: list[Stored], admin: Admin, members: Members, max_attempts: int | None
) -> None:
    """The event 17 fails again and again, and the process dies in the event 40. The pack is delivered again whole.

    What was handled is handled again, the event 17 with all its attempts. Without `max_attempts` it ends well in the
    next process. With it, the event is a dead letter in the end, and there is one.
    """
    failing, at = "1.17", "1.40"
    retry = {"initial_s": 0.02, "factor": 1, "max_attempts": max_attempts}
    given = {"retry": retry, "sleep_s": 0.005, "fail_at": [failing]}
    await members.start("one", **orders(KINDS["shared"] | {"concurrency": 1}, **given, kill_at=at, fail_times=1000))
    await until(lambda: members.has_died("one"), 20)
    assert places(members, "failed").count(place_of_text(failing)) >= 1
    await members.start("two", **orders(KINDS["shared"], **given, fail_times=1000 if max_attempts else 1))
    await members.until_handled(2 * N - bool(max_attempts), 30)
    dead = [place_of_text(failing)] if max_attempts else []
    await until(lambda: set(places(members, "storing", "two")) == set(dead), 20)
    await members.close("two")
    lines = members.evidence()
    assert_each_handled(lines, stored, but=dead)
    assert_no_repeat_without_fault(lines)
    assert set(places(members, "failed")) == {place_of_text(failing)}
    if max_attempts:
        letter = await the_letter(admin)
        assert (letter.headers["Eda-Dead-Sequence"], letter.headers["Eda-Dead-Index"]) == ("1", "17")
        assert letter.headers["Eda-Dead-Attempts"] == str(max_attempts)
        assert places(members, "begin", "two").count(place_of_text(failing)) <= max_attempts
    else:
        assert await admin.stream_names() == ["stream"]


# --- an event that kills ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_attempts", [1, 2, 3] if IS_LONG else [2])
@pytest.mark.parametrize("concurrency", [1, 8] if IS_LONG else [8])
async def test_event_when_it_kills_every_process_ends_as_a_dead_letter_and_the_rest_of_its_pack_does_not(
    stored: list[Stored], admin: Admin, members: Members, max_attempts: int, concurrency: int
) -> None:
    """A shared subscription, one process after the other. The server counts the deliveries of the pack."""
    poison = place_of_text(at := "1.10")
    kind = KINDS["shared"] | {"concurrency": concurrency}
    given = orders(kind, kill_at=at, sleep_s=0.01, retry={"max_attempts": max_attempts})

    def is_over() -> bool:
        return len(set(places(members, "end"))) == 2 * N - 1 and poison in places(members, "storing")

    for number in range(max_attempts + 2):
        name = f"m{number}"
        await members.start(name, **given)
        await until(lambda name=name: members.has_died(name) or is_over(), 30)
        if not members.has_died(name):
            await members.close(name)
            break
    n_kills = places(members, "killed").count(poison)
    assert len(places(members, "killed")) == n_kills
    assert max_attempts <= n_kills <= max_attempts + 1
    assert places(members, "begin").count(poison) == n_kills
    assert_each_handled(members.evidence(), stored, but=[poison])
    letter = await the_letter(admin)
    assert (letter.headers["Eda-Dead-Sequence"], letter.headers["Eda-Dead-Index"]) == ("1", "10")
    assert letter.headers["Eda-Dead-Reason"] == "attempts"
    kept = await admin.api("STREAM.INFO.KV_eda-cursors", {"subjects_filter": "$KV.eda-cursors.stream.>"})
    assert not kept["state"].get("subjects"), "no record is left"
