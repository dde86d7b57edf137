"""Members of a shared subscription that die in the middle of a pack, in processes of their own."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, until
from support.dead_letters.letters import stored
from support.packs import publish_pack
from support.subscribing.members import Members

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")

SHORT_LEASE = {"eda.options.DEFAULT_LEASE_S": 1.0, "eda.subscribing.monitor.TICK_MAX_S": 0.2}
TEAM: dict[str, Any] = {"name": "team", "durable": True, "backfill": True, "circuit": None}
Place = tuple[int, int]


@pytest.fixture
def members(tmp_path: Path, server: eda.EmbeddedServer, stream: str) -> Iterator[Members]:
    """Members of the test's stream on the shared server."""
    made = Members(tmp_path / "journal", server.url, stream)
    yield made
    made.end()


@pytest.fixture
async def packed(conn: eda.Conn, stream: str) -> str:
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    return stream


async def fill(admin: Admin, stream: str, n_packs: int, n: int) -> set[Place]:
    for pack in range(n_packs):
        await publish_pack(admin.js, stream, [eda.Event(type="t", id=f"{pack}.{index}") for index in range(n)])
    return {(seq, index) for seq in range(1, n_packs + 1) for index in range(n)}


def counted(members: Members, what: str) -> Counter[Place]:
    return Counter((line.sequence, line.index) for line in members.lines() if line.what == what)


async def is_acknowledged(admin: Admin, stream: str, seq: int) -> bool:
    info = await admin.consumer(stream, "team")
    return info["num_ack_pending"] == 0 and info["ack_floor"]["stream_seq"] == seq  # type: ignore[no-any-return]


async def assert_no_record(admin: Admin, stream: str) -> None:
    kept = await admin.api("STREAM.INFO.KV_eda-cursors", {"subjects_filter": f"$KV.eda-cursors.{stream}.>"})
    assert not kept["state"].get("subjects"), "no record is left"


@pytest.mark.parametrize("max_attempts", [None, 3])
async def test_pack_when_its_member_is_killed_at_40_after_17_has_failed_is_handled_whole_by_another(
    packed: str, admin: Admin, members: Members, max_attempts: int | None
) -> None:
    places = await fill(admin, packed, 2, 50)
    orders: dict[str, Any] = {
        "options": TEAM,
        "retry": {"initial_s": 0.02, "factor": 1.0, "max_attempts": max_attempts},
        "constants": SHORT_LEASE,
        "fail_at": ["1.17"],
        "fail_times": 99 if max_attempts else 2,
    }
    await members.start("a", **orders, kill_at="1.40", sleep_s=0.003)
    await until(lambda: members.has_died("a"), 20)
    assert counted(members, "killed") == {(1, 40): 1}
    assert not await is_acknowledged(admin, packed, 1)
    before = counted(members, "begin")
    await members.start("b", **orders)
    await until(lambda: is_acknowledged(admin, packed, 2), 30)
    await members.close("b")
    begun = counted(members, "begin")
    assert begun[1, 40] == 2
    assert all(begun[place] == before[place] + 1 for place in places - {(1, 17)})
    if max_attempts is None:
        assert set(counted(members, "end")) == places
        return
    assert set(counted(members, "end")) == places - {(1, 17)}
    assert before[1, 17] <= max_attempts <= begun[1, 17] <= max_attempts + 1
    (letter,) = await stored(admin, f"{packed}-dead")
    assert letter.headers["Eda-Dead-Index"] == "17"
    await admin.js.delete_stream(f"{packed}-dead")
    await assert_no_record(admin, packed)


@pytest.mark.parametrize(("max_attempts", "concurrency", "n_kills"), [(1, 1, 2), (3, 1, 4), (2, 8, 3)])
async def test_event_of_a_pack_when_it_kills_every_process_ends_as_a_dead_letter_and_no_other_does(
    packed: str, admin: Admin, members: Members, max_attempts: int, concurrency: int, n_kills: int
) -> None:
    """The first delivery is not on record, and each later one is."""
    places = await fill(admin, packed, 2, 20)
    orders: dict[str, Any] = {
        "options": TEAM | {"concurrency": concurrency},
        "retry": {"max_attempts": max_attempts},
        "constants": SHORT_LEASE,
        "kill_at": "1.10",
    }

    def is_over() -> bool:
        return len(counted(members, "end")) == 39 and bool(counted(members, "storing"))

    for name in "abcdef":
        await members.start(name, **orders, sleep_s=0.002)
        await until(lambda name=name: members.has_died(name) or is_over(), 30)
        if not members.has_died(name):
            await until(lambda: is_acknowledged(admin, packed, 2), 30)
            await members.close(name)
            break
    assert counted(members, "killed") == {(1, 10): n_kills}
    assert set(counted(members, "end")) == places - {(1, 10)}
    (letter,) = await stored(admin, f"{packed}-dead")
    assert (letter.headers["Eda-Dead-Sequence"], letter.headers["Eda-Dead-Index"]) == ("1", "10")
    assert letter.headers["Eda-Dead-Reason"] == "attempts"
    await admin.js.delete_stream(f"{packed}-dead")
    await assert_no_record(admin, packed)


async def test_event_when_it_fails_and_its_process_dies_again_and_again_is_begun_max_attempts_times_and_once_more(
    packed: str, admin: Admin, members: Members
) -> None:
    """Index 2 fails at each attempt, and index 6 kills the first processes before all attempts are used up."""
    await fill(admin, packed, 1, 8)
    orders: dict[str, Any] = {
        "options": TEAM | {"concurrency": 2},
        "retry": {"initial_s": 0.05, "factor": 1.0, "max_attempts": 4},
        "constants": SHORT_LEASE,
        "fail_at": ["1.2"],
        "fail_times": 99,
    }
    for name in "ab":
        await members.start(name, **orders, kill_at="1.6", slow={"1.6": 0.13})
        await until(lambda name=name: members.has_died(name), 20)
    await members.start("c", **orders)
    await until(lambda: is_acknowledged(admin, packed, 1), 30)
    await members.close("c")
    begun = counted(members, "begin")
    assert 4 <= begun[1, 2] <= 5
    (letter,) = await stored(admin, f"{packed}-dead")
    await admin.js.delete_stream(f"{packed}-dead")
    assert letter.headers["Eda-Dead-Index"] == "2"
    assert set(counted(members, "end")) == {(1, index) for index in range(8)} - {(1, 2)}
    await assert_no_record(admin, packed)


async def test_packs_when_members_are_killed_in_turn_are_all_handled(
    packed: str, admin: Admin, members: Members
) -> None:
    orders: dict[str, Any] = {"options": TEAM, "constants": SHORT_LEASE, "sleep_s": 0.01}
    for name in "abc":
        await members.start(name, **orders)
    places = await fill(admin, packed, 60, 20)
    for name in "ab":
        n = len(members.handled())
        await until(lambda n=n: len(members.handled()) > n + 60, 20)
        await members.kill(name)
    await until(lambda: is_acknowledged(admin, packed, 60), 40)
    await members.close("c")
    assert set(counted(members, "end")) == places


async def test_pack_when_its_member_is_frozen_past_its_lease_is_handled_by_another(
    packed: str, admin: Admin, members: Members
) -> None:
    """The frozen one finishes what it holds when it wakes up. Its acknowledgement is of an old delivery."""
    places = await fill(admin, packed, 1, 20)
    orders: dict[str, Any] = {"options": TEAM, "constants": SHORT_LEASE, "sleep_s": 0.02}
    await members.start("a", **orders)
    await until(lambda: len(members.handled()) >= 5)
    members.send("a", signal.SIGSTOP)
    await members.start("b", **orders)
    await until(lambda: is_acknowledged(admin, packed, 1), 30)
    members.send("a", signal.SIGCONT)
    await members.close("a")
    await members.close("b")
    by_b = {(line.sequence, line.index) for line in members.lines() if (line.member, line.what) == ("b", "end")}
    assert by_b == places
