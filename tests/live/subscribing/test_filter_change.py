"""A kept subscription whose filter grows or shrinks: refused, or changed from here on, in a rolling deployment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eda
from eda.subscribing.shared_source import SharedSource
from helpers import Admin, Connect, Logged, until

SHARED: dict[str, Any] = {"name": "n", "durable": True, "backfill": True}
FROM_HERE: dict[str, Any] = SHARED | {"on_filter_change": "from_here"}
KINDS: list[dict[str, Any]] = [{}, {"serial": True}, {"exclusive": True}, {"key": "aggregate"}]


async def publish(conn: eda.Conn, stream: str, *types: str) -> None:
    for event_type in types:
        await conn.publish(stream, eda.Event(type=event_type))


async def take(conn: eda.Conn, stream: str, n: int, **options: Any) -> list[str]:
    """Return the types of the first `n` events handled."""
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.type), **options):
        await until(lambda: len(seen) >= n)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("types", [["a", "b"], None, ["b"]])
async def test_filter_when_it_changed_is_refused_naming_the_option(
    conn: eda.Conn, stream: str, kind: dict[str, Any], types: list[str] | None
) -> None:
    await publish(conn, stream, "a", "b")
    await take(conn, stream, 1, types=["a"], **SHARED, **kind)
    with pytest.raises(eda.ConfigError, match=r"on_filter_change='from_here'") as caught:
        await conn.subscribe(stream, print, types=types, **SHARED, **kind)
    assert caught.value.argument == "name"
    await publish(conn, stream, "a")
    assert await take(conn, stream, 1, types=["a"], **SHARED, **kind) == ["a"]  # as it was


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["a"], ["a", "b"], ["a", "b"]),
        (["a"], None, ["a", "b", "c"]),
        (["a", "b"], ["b"], ["b"]),
        (["a"], ["c"], ["c"]),
        (None, ["a"], ["a"]),
    ],
)
async def test_filter_when_changed_from_here_holds_from_the_position_onward(
    conn: eda.Conn,
    stream: str,
    logged: Logged,
    kind: dict[str, Any],
    before: list[str] | None,
    after: list[str] | None,
    expected: list[str],
) -> None:
    known = before or ["a", "b", "c"]
    # The position is behind the last event that was handled, so this one comes last.
    await publish(conn, stream, *({"a", "b", "c"} - set(known)), *known)
    assert await take(conn, stream, len(known), types=before, **SHARED, **kind) == known
    await publish(conn, stream, "a", "b", "c")
    assert await take(conn, stream, len(expected), types=after, **FROM_HERE, **kind) == expected
    assert logged.find("its filter was .* and is .* now")
    await publish(conn, stream, "a", "b", "c")
    assert await take(conn, stream, len(expected), types=after, **SHARED, **kind) == expected


async def test_filter_when_taken_away_gets_new_events_at_once(conn: eda.Conn, stream: str, admin: Admin) -> None:
    """A server tells a consumer that has lost its filter nothing of new messages: it would look once in 5 s."""
    await publish(conn, stream, "a")
    await take(conn, stream, 1, types=["a"], **SHARED)
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.type), **FROM_HERE), asyncio.timeout(9):
        for n in range(1, 4):  # each would take 5 s
            await publish(conn, stream, "b")
            await until(lambda n=n: len(seen) == n, 9)
    assert [each.lag for each in await conn.subscriptions(stream)] == [0]
    # It counts as no filter: one is a change again, and none is not.
    await publish(conn, stream, "b")
    assert await take(conn, stream, 1, **SHARED) == ["b"]
    with pytest.raises(eda.ConfigError, match=r"it filters nothing \(all events\), the options ask"):
        await conn.subscribe(stream, print, types=["a"], **SHARED)
    await publish(conn, stream, "b", "a")
    assert await take(conn, stream, 1, types=["a"], **FROM_HERE) == ["a"]


async def test_filter_when_a_member_with_the_old_one_is_attached_loses_nothing(
    connect: Connect, stream: str, admin: Admin, logged: Logged
) -> None:
    """A rolling deployment: the new release asks for one type more while the old release still runs."""
    old_conn, new_conn = await connect(), await connect()
    old: list[str] = []
    new: list[str] = []
    await publish(old_conn, stream, "a")
    async with old_conn.subscribe(stream, lambda event: old.append(event.type), types=["a"], **SHARED) as older:
        await until(lambda: old)
        async with new_conn.subscribe(stream, lambda event: new.append(event.type), types=["a", "b"], **FROM_HERE):
            for _ in range(50):
                await publish(new_conn, stream, "b", "a")
            await until(lambda: not older.stats().active)
            await until(lambda: new.count("b") == 50 and old.count("a") + new.count("a") == 51)
            assert "b" not in old
            assert len(logged.find("is suspended: another member changed the consumer's filter")) == 1
            # Also events that no filter by subject keeps away.
            stored = await admin.js.get_msg(stream, 2)
            await admin.js.publish(stream, stored.data or b"")
            await until(lambda: new.count("b") == 51)
            with pytest.raises(eda.ConfigError, match="on_filter_change"):
                await old_conn.subscribe(stream, print, types=["a"], **SHARED)
            with pytest.raises(eda.ConfigError, match="would withhold their events") as caught:
                await old_conn.subscribe(stream, print, types=["a"], **FROM_HERE)
            assert caught.value.argument == "on_filter_change"
    info = await admin.consumer(stream, "n")
    assert (info["num_pending"], info["num_ack_pending"]) == (0, 0)


async def test_filter_when_a_member_with_the_old_one_was_cut_off_is_suspended_after_the_reconnect(
    connect: Connect, stream: str, own_server: eda.EmbeddedServer
) -> None:
    from support.transport.faulty_proxy import FaultyProxy

    async with FaultyProxy(own_server.port) as proxy:
        old_conn = await connect(proxy.url(own_server.url))
        new_conn = await connect(own_server.url)
        old: list[str] = []
        new: list[str] = []
        await publish(new_conn, stream, "a")
        async with old_conn.subscribe(stream, lambda event: old.append(event.type), types=["a"], **SHARED) as older:
            await until(lambda: old)
            proxy.cut()
            async with new_conn.subscribe(stream, lambda event: new.append(event.type), types=["a", "b"], **FROM_HERE):
                await until(lambda: not older.stats().active)
                await publish(new_conn, stream, "a", "b", "b")
                await until(lambda: len(new) == 3)


@pytest.mark.parametrize("wide", [["a", "b"], None])
@pytest.mark.parametrize("on_filter_change", ["from_here", "refuse"])
async def test_filter_when_it_is_narrowed_while_a_member_is_paused_is_widened_again_or_the_log_says_so(
    connect: Connect, stream: str, admin: Admin, logged: Logged, wide: list[str] | None, on_filter_change: str
) -> None:
    """A paused member has no pulls at the server, so nobody can see that it is attached."""
    conn, other = await connect(), await connect()
    old: list[str] = []
    new: list[str] = []
    await publish(conn, stream, "a")
    options = SHARED | {"on_filter_change": on_filter_change}
    async with conn.subscribe(stream, lambda event: old.append(event.type), types=wide, **options) as paused:
        await until(lambda: old)
        paused.pause()
        assert isinstance(paused._pipeline.source, SharedSource)
        paused._pipeline.source.forget_pulls()  # as the server does
        await paused._pipeline.source._wire.detach(paused._pipeline.source._subscription)
        await until(lambda: nobody_pulls(admin, stream))
        async with other.subscribe(stream, lambda event: new.append(event.type), types=["a"], **FROM_HERE) as narrow:
            paused._pipeline.source._subscription = await paused._pipeline.source._wire.attach(
                f"{paused._pipeline.source._inbox}.*", paused._dispatcher.intake
            )
            paused.resume()
            paused._pipeline.source.check_consumer("it is time to check it")
            if on_filter_change == "from_here":
                narrow._pipeline.source.check_consumer("it is time to check it")
                await until(lambda: len(logged.find("its filter was .* and is .* now")) == 2)
                narrow._pipeline.source.check_consumer("it is time to check it")
                await until(lambda: not narrow.stats().active)
                await publish(conn, stream, "b", "a")
                await until(lambda: old[1:] == ["b", "a"])
            else:
                await until(lambda: logged.find("gets only events that the new filter matches"))
                paused._pipeline.source.check_consumer("it is time to check it")
                await publish(conn, stream, "a")
                await until(lambda: len(old) + len(new) == 2)
                assert narrow.stats().active
                assert len(logged.find("gets only events that the new filter matches")) == 1


async def nobody_pulls(admin: Admin, stream: str) -> bool:
    return (await admin.consumer(stream, "n"))["num_waiting"] == 0


async def test_unwanted_when_the_filter_is_still_the_members_own_is_acknowledged(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    """An event on the bare stream's subject, and one whose subject lies about its type."""
    await publish(conn, stream, "b")
    payload = (await admin.js.get_msg(stream, 1)).data or b""
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.type), types=["a"], **SHARED) as subscription:
        await admin.js.publish(stream, payload)
        await admin.js.publish(f"{stream}.a._", payload)
        await publish(conn, stream, "a")
        await until(lambda: subscription.stats().passed_over == 2 and seen == ["a"])
    info = await admin.consumer(stream, "n")
    assert (info["num_pending"], info["num_ack_pending"]) == (0, 0)


async def test_unwanted_when_closed_before_it_is_known_whose_it_is_is_given_back(
    conn: eda.Conn, stream: str, admin: Admin
) -> None:
    """Members that want it do not have to wait until its lease ends."""
    await publish(conn, stream, "b")
    payload = (await admin.js.get_msg(stream, 1)).data or b""
    async with conn.subscribe(stream, print, types=["a"], **SHARED, lease_s=3600) as closed:
        assert isinstance(closed._pipeline.source, SharedSource)
        closed._pipeline.source._unwanted._look = asyncio.Event().wait  # type: ignore[assignment]
        await admin.js.publish(stream, payload)
        await admin.js.publish(stream, payload)
        await until(lambda: are_unacknowledged(admin, stream, 2))
    async with conn.subscribe(stream, print, types=["a"], **SHARED, lease_s=3600) as subscription:
        await until(lambda: subscription.stats().passed_over == 2)
    assert await are_unacknowledged(admin, stream, 0)


async def are_unacknowledged(admin: Admin, stream: str, n: int) -> bool:
    return (await admin.consumer(stream, "n"))["num_ack_pending"] == n


@pytest.mark.old_server
async def test_filter_when_only_the_client_filters_is_not_changed(
    conn: eda.Conn, stream: str, admin: Admin, server_version: str
) -> None:
    body = {"name": stream, "subjects": [f"foreign.{stream}.>"], "storage": "file"}
    await admin.api(f"STREAM.CREATE.{stream}", body)
    async with conn.subscribe(stream, print, types=["a"], **SHARED):
        with pytest.raises(eda.ConfigError, match="filter in the client") as caught:
            await conn.subscribe(stream, print, types=["a", "b"], **FROM_HERE)
    assert caught.value.argument == "on_filter_change"
    assert (await admin.consumer(stream, "n"))["config"]["metadata"]["eda-filter"].split()[-1] == f"{stream}.a.*"


async def test_ordered_when_a_standby_has_the_wider_filter_takes_over_with_it(
    connect: Connect, stream: str, logged: Logged
) -> None:
    old_conn, new_conn = await connect(), await connect()
    old: list[str] = []
    new: list[str] = []
    older = await old_conn.subscribe(stream, lambda event: old.append(event.type), types=["a"], serial=True, **SHARED)
    idle = await old_conn.subscribe(stream, print, types=["a"], serial=True, **SHARED)
    async with new_conn.subscribe(
        stream, lambda event: new.append(event.type), types=["a", "b"], serial=True, **FROM_HERE
    ) as newer:
        await publish(old_conn, stream, "a", "b")
        await until(lambda: old)
        assert not newer.stats().active
        await older.close()
        # Either standby may be the first; a narrow one that was gives way to nobody, and is closed here.
        await until(lambda: newer.stats().active or idle.stats().active)
        if idle.stats().active:
            await idle.close()
        await until(lambda: newer.stats().active)
        await publish(old_conn, stream, "b")
        await until(lambda: new[-1:] == ["b"])
        assert logged.find("its filter was .* and is .* now")
        with pytest.raises(eda.ConfigError, match="on_filter_change='from_here'"):
            await old_conn.subscribe(stream, print, types=["a"], serial=True, **SHARED)
        with pytest.raises(eda.ConfigError, match="would withhold their events"):
            await old_conn.subscribe(stream, print, types=["a"], serial=True, **FROM_HERE)
    await idle.close()


async def test_ordered_when_a_standby_has_the_old_filter_never_takes_the_key_back(
    connect: Connect, stream: str, logged: Logged
) -> None:
    old_conn, new_conn = await connect(), await connect()
    first = await old_conn.subscribe(stream, print, types=["a"], serial=True, **SHARED)
    narrow = await old_conn.subscribe(stream, print, types=["a"], serial=True, **SHARED)
    wide = await new_conn.subscribe(stream, print, types=["a", "b"], serial=True, **FROM_HERE)
    # The narrow standby can't take the key while it is cut off from it: it is asked for by the wide one alone.
    assert narrow._pipeline.cursor is not None
    narrow._pipeline.cursor._filter.own = [f"{stream}.other.*"]
    await first.close()
    await until(lambda: wide.stats().active)
    await wide.close()
    await until(lambda: logged.find("stands by and takes nothing over"))
    await asyncio.sleep(0.3)
    assert not narrow.stats().active
    async with new_conn.subscribe(stream, print, types=["a", "b"], serial=True, **SHARED) as again:
        await until(lambda: again.stats().active)
    await narrow.close()


async def test_ordered_when_a_narrow_standby_outlives_the_wide_holder_never_says_that_it_takes_over(
    connect: Connect, stream: str, logged: Logged
) -> None:
    old_conn, new_conn = await connect(), await connect()
    first = await old_conn.subscribe(stream, print, types=["a"], serial=True, **SHARED)
    wide = await new_conn.subscribe(stream, print, types=["a", "b"], serial=True, **FROM_HERE)
    await first.close()
    await until(lambda: wide.stats().active)
    assert wide._pipeline.cursor is not None
    # As an old release's member that lost the key to it: it may open no more, but stays.
    narrow = await new_conn.subscribe(stream, print, types=["a", "b"], serial=True, **SHARED)
    assert narrow._pipeline.cursor is not None
    narrow._pipeline.cursor._filter.own = [f"{stream}.a.*"]
    wide._pipeline.cursor._stop()[0].abandon()  # type: ignore[union-attr]  # as if it was killed
    await until(lambda: logged.find("stands by and takes nothing over"), 15)
    assert not logged.find("taking over")
    await narrow.close()


async def test_shared_when_the_filter_fits_a_suspended_member_again_delivers_events_again(
    connect: Connect, stream: str, logged: Logged
) -> None:
    """A deployment that is rolled back: members of the old release that still run."""
    conn, other = await connect(), await connect()
    old: list[str] = []
    async with conn.subscribe(stream, lambda event: old.append(event.type), types=["a"], **SHARED) as older:
        async with other.subscribe(stream, print, types=["a", "b"], **FROM_HERE):
            older._pipeline.source.check_consumer("it is time to check it")
            await until(lambda: not older.stats().active)
        # Nothing is attached now, so a narrower filter may come.
        back = await other.subscribe(stream, print, types=["a"], **FROM_HERE)
        await back.close()
        older._pipeline.source.check_consumer("it is time to check it")
        await until(lambda: older.stats().active)
        await publish(conn, stream, "b", "a", "a")
        await until(lambda: old == ["a", "a"])
        assert logged.find("is no longer suspended")
        # And once more.
        async with other.subscribe(stream, print, types=["a", "b"], **FROM_HERE):
            older._pipeline.source.check_consumer("it is time to check it")
            await until(lambda: not older.stats().active)
        assert len(logged.find("is suspended: another member")) == 2


@pytest.mark.parametrize("types", [["a"], ["a", "b"]])
async def test_filter_when_members_know_different_servers_is_not_changed_to_and_fro(
    connect: Connect, stream: str, admin: Admin, logged: Logged, monkeypatch: pytest.MonkeyPatch, types: list[str]
) -> None:
    """An upgrade to a server whose filters can be relied on, while one member is connected to an older one."""
    old_conn, new_conn = await connect(), await connect()
    old_api = old_conn._lifetime.require_open().api
    monkeypatch.setattr(type(old_api), "filters_reliably", property(lambda self: self is not old_api))
    seen: list[str] = []
    async with (
        old_conn.subscribe(stream, lambda event: seen.append(event.type), types=types, **SHARED) as older,
        new_conn.subscribe(stream, lambda event: seen.append(event.type), types=types, **SHARED) as newer,
    ):
        for _ in range(3):
            for each in (older, newer):
                assert isinstance(each._pipeline.source, SharedSource)
                each._pipeline.source.check_consumer("it is time to check it")
                assert each._pipeline.source._checking is not None
                await each._pipeline.source._checking
        # The newer one asked for a filter, the older one can't rely on it: that is where it ends.
        assert len(logged.find("that was changed")) == 2
        config = (await admin.consumer(stream, "n"))["config"]
        assert (config.get("filter_subjects") or [config.get("filter_subject")]) == [">"]
        await publish(new_conn, stream, "a", "x", "a")
        await until(lambda: seen == ["a", "a"] and older.stats().passed_over + newer.stats().passed_over == 1)
    info = await admin.consumer(stream, "n")
    assert (info["num_pending"], info["num_ack_pending"]) == (0, 0)
