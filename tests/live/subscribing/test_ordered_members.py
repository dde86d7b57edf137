"""Members of an ordered name in processes of their own: one at a time, in order, whatever happens to them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eda
from helpers import Admin, until
from support.cursors.member import Keys
from support.dead_letters.letters import stored
from support.subscribing.members import QUICK, Members

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")

S = 1_000_000_000
KEPT: dict[str, Any] = {"name": "team", "durable": True, "backfill": True}
SERIAL: dict[str, Any] = {"options": {**KEPT, "serial": True}, "retry": {"initial_s": 0.02, "factor": 1}}


@pytest.fixture
def members(tmp_path: Path, server: eda.EmbeddedServer, stream: str) -> Iterator[Members]:
    """Members of the test's stream on the shared server."""
    made = Members(tmp_path / "journal", server.url, stream)
    yield made
    made.end()


async def publish(conn: eda.Conn, stream: str, n: int) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event(aggregate=str(i % 10)) for i in range(n)])


async def position(admin: Admin, stream: str) -> int:
    """Return the kept position."""
    value = await Keys(admin, stream, "team").get()
    assert value is not None
    return int(value["seq"])


def active(members: Members) -> str:
    """Return who handled last."""
    return members.calls()[-1].member


async def test_serial_when_handlers_fail_and_run_late_and_members_close_keeps_the_order(
    conn: eda.Conn, stream: str, members: Members
) -> None:
    await conn.streams.create(stream)
    orders = SERIAL | {"sleep_s": 0.002, "fail_every": 7, "fail_times": 2, "slow": {"11": 5, "90": 5, "200": 5}}
    orders["options"] = orders["options"] | {"timeout_s": 0.5}
    await members.start("a", "b", "c", **orders)
    await publish(conn, stream, 300)  # now that all are there: one alone would be done before the last one is open
    for n in (40, 120):
        await members.until_handled(n)
        first = active(members)
        closed = await members.close(first)
        next_call = await until(lambda closed=closed, first=first: members.first_call_after(closed, not_by=first))
        assert next_call - closed < S, "a clean close has the next one take over at once"
    await members.until_handled(300)
    members.assert_serial()
    assert members.handled() == list(range(1, 301))
    calls = members.calls()
    # A member that closes between two attempts of an event leaves the event to the next one, whose first attempt it is.
    cancelled = [(call.sequence, call.member) for call in calls if call.outcome == "cancelled"]
    assert len(set(cancelled)) == len(cancelled)
    assert list(dict(cancelled)) == [11, 90, 200]
    assert {call.sequence for call in calls if call.outcome == "failed"} == set(range(7, 301, 7))
    assert {call.member for call in calls} == {"a", "b", "c"}


@pytest.mark.parametrize("serial", [True, "strict"])
async def test_serial_when_the_active_member_is_killed_goes_on_behind_what_is_kept(
    conn: eda.Conn, stream: str, admin: Admin, members: Members, serial: Any
) -> None:
    await publish(conn, stream, 3000)
    orders = SERIAL | {"options": {**KEPT, "serial": serial}, "constants": QUICK, "sleep_s": 0.001}
    await members.start("a", "b", "c", **orders)
    for n in (100, 500):
        await members.until_handled(n)
        first = active(members)
        killed = await members.kill(first)
        kept = await position(admin, stream)
        taken = await until(lambda killed=killed, first=first: members.first_call_after(killed, not_by=first))
        assert taken - killed < 2.5 * S
        await members.until_handled(n + 200)
        again = members.again_after(killed)
        assert all(sequence > kept for sequence in again), (kept, again)
        if serial == "strict":
            assert len(again) <= 1
    last = active(members)
    await members.close(last)
    members.assert_serial()
    assert await position(admin, stream) == max(members.handled())


async def test_serial_when_the_active_member_freezes_or_dies_another_takes_over_within_seven_seconds(
    conn: eda.Conn, stream: str, admin: Admin, members: Members
) -> None:
    """With the real times. The frozen one finishes the handler that it was in, and nothing else."""
    await publish(conn, stream, 3000)
    await members.start("a", "b", "c", **SERIAL, sleep_s=0.02)
    await members.until_handled(20)
    frozen = active(members)
    members.send(frozen, signal.SIGSTOP)
    await asyncio.sleep(0.05)
    stopped = time.monotonic_ns()
    in_hand = next((call for call in members.calls() if call.member == frozen and call.outcome == "killed"), None)
    await asyncio.sleep(8)
    members.send(frozen, signal.SIGCONT)
    taken = members.first_call_after(stopped, not_by=frozen)
    assert taken is not None
    assert taken - stopped < 7 * S
    await asyncio.sleep(0.5)
    late = [call for call in members.calls() if call.member == frozen and max(call.begin_ns, call.end_ns) > stopped]
    assert [call.sequence for call in late] in ([], [in_hand.sequence] if in_hand else [])
    killed_one = active(members)
    assert killed_one != frozen
    killed = await members.kill(killed_one)
    taken = await until(lambda: members.first_call_after(killed, not_by=killed_one))
    assert taken - killed < 7 * S
    n = len(set(members.handled()))
    await members.until_handled(n + 20)
    members.assert_serial(but=(frozen, in_hand.sequence) if in_hand else None)


async def test_serial_when_the_server_is_killed_and_the_stream_purged_keeps_the_order(
    own_server: eda.EmbeddedServer, tmp_path: Path
) -> None:
    members = Members(tmp_path / "journal", own_server.url, "stream")
    try:
        async with eda.connect(own_server.url) as conn:
            await publish(conn, "stream", 400)
            await members.start("a", "b", "c", **SERIAL, constants=QUICK, sleep_s=0.002)
            for n in (50, 200):
                await members.until_handled(n)
                await own_server.kill()
                await asyncio.sleep(0.3)
                await own_server.start()
            await members.until_handled(400)
            # What is purged while it is held may be handled or not; what follows is.
            await publish(conn, "stream", 1000)
            await members.until_handled(420)
            assert await conn.streams.purge("stream") > 0
            await publish(conn, "stream", 100)
            await until(lambda: members.is_handled(1500), 20)
        gone = set(range(1, 1401)) - set(members.handled())
        members.assert_serial(gone=gone)
        assert set(range(1, 401)) | set(range(1401, 1501)) <= set(members.handled())
    finally:
        members.end()


async def test_exclusive_when_the_active_member_is_killed_loses_nothing_before_the_kept_position(
    conn: eda.Conn, stream: str, admin: Admin, members: Members
) -> None:
    n = 1200
    await publish(conn, stream, n - 400)
    options = {**KEPT, "exclusive": True, "prefetch": 64}
    await members.start(
        "a", "b", "c", options=options, constants=QUICK, fail_every=50, retry={"initial_s": 0.01}, sleep_s=0.001
    )
    for part in (200, 600):
        await members.until_handled(part)
        first = active(members)
        killed = await members.kill(first)
        kept = await position(admin, stream)
        handled = set(members.handled())
        assert set(range(1, kept + 1)) <= handled, "kept is only what was handled, whole"
        await publish(conn, stream, 200)  # it may have handled all there was
        await until(lambda killed=killed, first=first: members.first_call_after(killed, not_by=first), 30)
        await asyncio.sleep(0.2)
        assert all(sequence > kept for sequence in members.again_after(killed))
    await members.until_handled(n)
    members.assert_prefix(window=64)
    await members.close(active(members))
    assert await position(admin, stream) == n


# --- events that kill ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_attempts", [1, 3])
async def test_event_when_it_kills_every_process_ends_as_a_dead_letter_and_no_other_does(
    conn: eda.Conn, stream: str, admin: Admin, members: Members, max_attempts: int
) -> None:
    await publish(conn, stream, 100)
    names = ["a", "b", "c", "d", "e", "f"][: max_attempts + 3]
    orders = SERIAL | {"retry": {"max_attempts": max_attempts}, "constants": QUICK, "kill_at": 50}
    await members.start(*names, **orders)
    await until(lambda: members.is_handled(100), 30)
    # Once or twice more: the first process to die was not handling one by one, so that what killed it is known to be
    # after its last position, no more; and nothing is dead for one death that may have had another cause.
    kills = [call for call in members.calls() if call.outcome == "killed"]
    assert {call.sequence for call in kills} == {50}
    assert max_attempts <= len(kills) <= max(max_attempts, 2) + 1
    members.assert_serial(gone={50})
    assert set(members.handled()) == set(range(1, 101)) - {50}
    (letter,) = await stored(admin, f"{stream}-dead")
    assert (letter.headers["Eda-Dead-Sequence"], letter.headers["Eda-Dead-Reason"]) == ("50", "attempts")
    assert letter.headers["Eda-Dead-Attempts"] == str(max(max_attempts, 2))
    await admin.js.delete_stream(f"{stream}-dead")


async def test_event_when_members_died_idle_before_it_came_is_handled(
    conn: eda.Conn, stream: str, admin: Admin, members: Members
) -> None:
    await publish(conn, stream, 10)
    await members.start("a", "b", "c", "d", **SERIAL | {"retry": {"max_attempts": 2}, "constants": QUICK})
    await members.until_handled(10)
    for epoch in (1, 2, 3):
        value = await until(lambda epoch=epoch: held(admin, stream, epoch))
        await members.kill(value["holder"][0])
    await until(lambda: held(admin, stream, 4))
    await publish(conn, stream, 10)
    await members.until_handled(20)
    assert [call.attempt for call in members.calls()] == [1] * 20


async def held(admin: Admin, stream: str, epoch: int) -> dict[str, Any] | None:
    """Return the key's value once it is of that epoch and nothing is held against the next event."""
    value = await Keys(admin, stream, "team").get()
    return value if value is not None and (value["epoch"], value["tries"]) == (epoch, 0) else None
