"""Whether a projection may go on with its stream: recreated, restored, purged, expired and forgotten events."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda.jetstream.schemas import nanoseconds
from eda.projections import stream_check
from eda.projections.sink import PositionRow
from eda.projections.stream_check import StreamCheck, stream_now
from helpers import Admin, until
from support.store.backups import backup, restore
from support.store.versions import on_able_servers


def check_of(conn: eda.Conn, stream: str, version: int = 1) -> StreamCheck:
    services: Any = conn._lifetime._services
    return StreamCheck(services.api, stream, "list", version)


async def publish(conn: eda.Conn, stream: str, n: int) -> int:
    """Publish events, and return the last sequence."""
    receipts = [await conn.publish(stream, eda.Event(type="added", aggregate=f"a{each}")) for each in range(n)]
    return receipts[-1].sequence


async def row_at(conn: eda.Conn, stream: str, sequence: int, lane: int = 0) -> PositionRow:
    """Return the row of a projection that has applied the event with this sequence."""
    services: Any = conn._lifetime._services
    now = await stream_now(services.api, stream)
    message = await services.api.message(stream, {"seq": sequence})
    return PositionRow(stream, lane, now.created, sequence, 0, nanoseconds(message.time), 1)


@pytest.mark.old_server
async def test_check_when_nothing_has_happened_returns_the_stream(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await publish(conn, stream, 5)
    rows = [await row_at(conn, stream, each, lane) for lane, each in enumerate((3, 5))]
    now = await check_of(conn, stream).check(rows)
    assert (now.info.last_sequence, now.created) == (5, rows[0].created)
    await check_of(conn, stream).check([PositionRow(stream, 0, now.created)])
    await check_of(conn, stream).check([])


async def test_check_when_the_stream_does_not_exist_says_so(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.StreamNotFound):
        await check_of(conn, stream).check([])


@pytest.mark.old_server
async def test_check_when_the_stream_was_made_again_names_both_times(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await publish(conn, stream, 5)
    row = await row_at(conn, stream, 3)
    await conn.streams.delete(stream)
    await publish(conn, stream, 5)
    with pytest.raises(
        eda.PositionInvalid, match=r"made again or restored: .* created at 2.* now.*version=2, which"
    ) as caught:
        await check_of(conn, stream).check([row])
    error = caught.value
    assert (error.projection, error.version, error.stream) == ("list", 1, stream)
    with pytest.raises(eda.PositionInvalid):  # also if it has applied nothing yet
        await check_of(conn, stream).check([PositionRow(stream, 0, row.created)])


@pytest.mark.old_server
@pytest.mark.parametrize("n_after", [0, 5])
async def test_check_when_an_older_backup_was_restored_ends(
    conn: eda.Conn, admin: Admin, stream: str, n_after: int
) -> None:
    await publish(conn, stream, 3)
    saved = await backup(admin, stream)
    await publish(conn, stream, 2)
    row = await row_at(conn, stream, 5)
    await conn.streams.delete(stream)
    await restore(admin, saved)
    if n_after:
        await publish(conn, stream, n_after)
    expected = (
        r"made again or restored"  # nats-server 2.14 gives a restored stream another time
        r"|event 5 was stored at .*, but the event with this sequence that was applied was stored at"
        r"|ends at 3, but events up to 5 were applied"
    )
    with pytest.raises(eda.PositionInvalid, match=expected):
        await check_of(conn, stream, version=7).check([row])
    with pytest.raises(eda.PositionInvalid, match="version=8"):
        await check_of(conn, stream, version=7).check([row])


async def test_check_when_the_sequence_has_another_event_names_both_times(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await publish(conn, stream, 5)
    row = await row_at(conn, stream, 5)
    other = PositionRow(stream, 0, row.created, 5, 0, row.time - 1_000_000_000, 1)
    with pytest.raises(eda.PositionInvalid, match=r"event 5 was stored at .*Z, but .* applied was stored at .*Z"):
        await check_of(conn, stream).check([other])
    await check_of(conn, stream).check([PositionRow(stream, 0, row.created, 5, 0, 0, 1)])  # a time that is not known


@pytest.mark.old_server
async def test_check_when_applied_events_are_gone_goes_on(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await publish(conn, stream, 6)
    row = await row_at(conn, stream, 4)
    await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 4})
    await check_of(conn, stream).check([row])
    await admin.api(f"STREAM.PURGE.{stream}", {"seq": 5})
    await check_of(conn, stream).check([row])


@pytest.mark.old_server
async def test_check_when_all_applied_events_are_purged_goes_on(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await publish(conn, stream, 6)
    row = await row_at(conn, stream, 6)
    await conn.streams.purge(stream)
    await check_of(conn, stream).check([row])
    await publish(conn, stream, 1)
    await check_of(conn, stream).check([row])


@pytest.mark.old_server
async def test_check_when_events_were_purged_before_they_were_applied_names_them(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await publish(conn, stream, 6)
    rows = [await row_at(conn, stream, each, lane) for lane, each in enumerate((2, 4))]
    await admin.api(f"STREAM.PURGE.{stream}", {"seq": 6})
    with pytest.raises(eda.PositionInvalid, match="events 3 to 5 are gone and not applied: the stream was purged, or"):
        await check_of(conn, stream).check(rows)
    with pytest.raises(eda.PositionInvalid, match=r"event 5 is gone .*version=2, which builds new rows from event 6"):
        await check_of(conn, stream).check(rows[1:])
    await check_of(conn, stream).check(rows, read_to=5)  # this process has received them, and is about to apply them


async def test_check_when_events_have_expired_before_they_were_applied_names_the_limit(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_age_s=1.0, dedup_window_s=0.5))
    await publish(conn, stream, 4)
    late = await row_at(conn, stream, 2)
    done = await row_at(conn, stream, 4)

    async def is_empty() -> bool:
        return (await conn.streams.info(stream)).events == 0

    await until(is_empty)
    await check_of(conn, stream).check([done])
    with pytest.raises(
        eda.PositionInvalid, match=r"events 3 to 4 are gone .* the stream discards old events \(max_age\)"
    ):
        await check_of(conn, stream).check([late])


async def test_check_when_events_of_another_filter_are_the_missing_ones_still_ends(
    conn: eda.Conn, admin: Admin, stream: str
) -> None:
    """Nobody knows which events were removed."""
    await publish(conn, stream, 4)
    row = await row_at(conn, stream, 1)
    await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 2})
    await check_of(conn, stream).check([row])  # the first event is still there
    await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 1})
    with pytest.raises(eda.PositionInvalid, match="event 2 is gone"):
        await check_of(conn, stream).check([row])


@on_able_servers
async def test_check_when_aggregates_were_forgotten_goes_on(conn: eda.Conn, admin: Admin, stream: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(store=True))
    async with conn.store(stream) as store:
        for each in ("a", "a", "a", "b", "a"):
            await store.append(each, [eda.Event(type="added")], expected="any")
        row = await row_at(conn, stream, 2)
        await store.forget("a")
        assert (await conn.streams.info(stream)).first_sequence == 4
        await check_of(conn, stream).check([row])
        tombstone = await conn.streams.info(stream)
        await admin.api(f"STREAM.PURGE.{stream}", {"seq": tombstone.last_sequence + 1})
        with pytest.raises(eda.PositionInvalid, match="events 3 to 6 are gone"):
            await check_of(conn, stream).check([row])


@pytest.mark.old_server
async def test_check_when_the_server_lost_its_end_and_was_written_to_again_ends(
    conn: eda.Conn, admin: Admin, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event at the position is deleted, so only the times of the events before it tell."""
    await publish(conn, stream, 5)
    row = await row_at(conn, stream, 5)
    await admin.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 4})
    await check_of(conn, stream).check([await row_at(conn, stream, 3)])
    before = PositionRow(stream, 0, row.created, 4, 0, (await row_at(conn, stream, 2)).time, 1)
    await check_of(conn, stream).check([before])  # the clocks of servers may differ by as much
    monkeypatch.setattr(stream_check, "SKEW_NS", 1)
    with pytest.raises(eda.PositionInvalid, match="event 4 was applied and is gone now, and event 3 was stored after"):
        await check_of(conn, stream).check([before])
