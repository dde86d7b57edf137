"""Consumers that somebody else made or changed: changed back where that can be, else refused, or the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import nats
import pytest

import eda
import eda.subscribing.monitor
import eda.subscribing.source
from eda.jetstream.api import Api
from eda.subscribing.shared_source import SharedSource
from helpers import Admin, Logged, until

NS = 1_000_000_000
KEPT = {"durable_name": "team", "name": "team", "ack_policy": "explicit", "deliver_policy": "all"}


async def keep(admin: Admin, stream: str, **settings: Any) -> None:
    """Make the consumer as somebody else would."""
    body = {"stream_name": stream, "config": KEPT | settings, "action": "create"}
    await admin.api(f"CONSUMER.CREATE.{stream}.team", body)


async def edit(admin: Admin, stream: str, **changes: Any) -> None:
    """Change the consumer as an operator would."""
    kept = (await admin.consumer(stream, "team"))["config"]
    body = {"stream_name": stream, "config": kept | changes, "action": "update"}
    await admin.api(f"CONSUMER.CREATE.{stream}.team", body)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("replay_policy", "original"),
        ("mem_storage", True),
        ("priority_groups", ["a"]),
    ],
)
async def test_durable_when_the_kept_one_takes_away_what_cannot_be_changed_is_refused_naming_it(
    conn: eda.Conn, stream: str, admin: Admin, setting: str, value: Any
) -> None:
    await conn.publish(stream)
    more = {"priority_policy": "overflow"} if setting == "priority_groups" else {}
    await keep(admin, stream, **{setting: value}, **more)
    with pytest.raises(eda.ConfigError, match=setting) as caught:
        await conn.subscribe(stream, lambda event: None, name="team", durable=True)
    assert caught.value.argument == "name"
    assert (await admin.consumer(stream, "team"))["config"][setting] == value


HEALED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "headers_only": ({"headers_only": True}, {"headers_only": None}),
    "max_deliver": ({"max_deliver": 2}, {"max_deliver": -1}),
    "backoff": ({"backoff": [5 * NS, 9 * NS], "max_deliver": 7}, {"backoff": None, "max_deliver": -1}),
    "inactive_threshold": ({"inactive_threshold": 60 * NS}, {"inactive_threshold": None}),
    "max_ack_pending": ({"max_ack_pending": 10}, {"max_ack_pending": 65_536}),
    "ack_wait": ({"ack_wait": 2 * NS}, {"ack_wait": 30 * NS}),
}
every_healed = pytest.mark.parametrize(("changes", "after"), HEALED.values(), ids=HEALED)


@pytest.mark.old_server
@every_healed
async def test_durable_when_the_kept_one_takes_something_away_is_changed_back(
    changes: dict[str, Any],
    after: dict[str, Any],
    conn: eda.Conn,
    stream: str,
    admin: Admin,
    logged: Logged,
) -> None:
    await conn.publish(stream, eda.Event(id="one", data=eda.JSON(1)))
    await keep(admin, stream, **changes)
    seen: list[Any] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.data.decode()), name="team", durable=True):
        await until(lambda: seen == [1])
        config = (await admin.consumer(stream, "team"))["config"]
        assert {setting: config.get(setting) for setting in after} == after
    assert bool(logged.find("used up max_deliver")) is ("max_deliver" in changes)
    for setting, value in changes.items():
        assert logged.find(f"{setting}=.*is needed.*that was changed", logging.WARNING), (setting, value)


@pytest.mark.old_server
@every_healed
async def test_consumer_when_somebody_takes_something_away_while_subscribed_is_changed_back(
    changes: dict[str, Any],
    after: dict[str, Any],
    conn: eda.Conn,
    stream: str,
    admin: Admin,
    logged: Logged,
    often: None,
) -> None:
    seen: list[Any] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.data.decode()), name="team", durable=True):
        await edit(admin, stream, **changes)

        async def is_healed() -> bool:
            config = (await admin.consumer(stream, "team"))["config"]
            return {setting: config.get(setting) for setting in after} == after

        await until(is_healed)
        await conn.publish(stream, eda.Event(data=eda.JSON(1)))
        await until(lambda: seen == [1])
    for setting in changes:
        assert logged.find(f"{setting}=.*is needed.*that was changed", logging.WARNING)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have consumers looked at several times a second."""
    monkeypatch.setattr(eda.subscribing.source, "CHECK_EVERY_S", 0.2)
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.1)


@pytest.mark.parametrize("types", [None, ["a", "b"]], ids=["no filter", "two types"])
async def test_filter_when_somebody_changes_it_while_subscribed_is_changed_back(
    types: list[str] | None, conn: eda.Conn, stream: str, admin: Admin, often: None, logged: Logged
) -> None:
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.type), name="team", durable=True, types=types):
        before = (await admin.consumer(stream, "team"))["config"].get("filter_subjects")
        await edit(admin, stream, filter_subjects=[f"{stream}.a.*"])

        async def is_healed() -> bool:
            return bool((await admin.consumer(stream, "team"))["config"].get("filter_subjects") == (before or [">"]))

        await until(is_healed)
        await until(lambda: logged.find("will not deliver the events that it skipped"))
        async with asyncio.timeout(9):  # each would take 5 s if the server did not tell the consumer of new messages
            for n in range(1, 4):
                await conn.publish(stream, eda.Event(type="b"))
                await until(lambda n=n: seen == ["b"] * n, 9)


@pytest.fixture
def insist(monkeypatch: pytest.MonkeyPatch, admin: Admin, stream: str) -> Callable[[int], list[None]]:
    """Let an operator leave the bodies out again after each of our first n changes, before the server answers it."""

    def begin(n: int) -> list[None]:
        change, changed = Api.create_consumer, list[None]()

        async def change_and_insist(*args: Any, **options: Any) -> dict[str, Any]:
            made = await change(*args, **options)
            changed.append(None)
            if len(changed) > n:
                return made
            await edit(admin, stream, headers_only=True)
            return made | {"config": (await admin.consumer(stream, "team"))["config"]}

        monkeypatch.setattr(Api, "create_consumer", change_and_insist)
        return changed

    return begin


@pytest.mark.parametrize("opened", [False, True], ids=["kept", "while subscribed"])
async def test_consumer_when_the_answer_shows_a_later_edit_is_changed_back_again(
    opened: bool, conn: eda.Conn, stream: str, admin: Admin, insist: Callable[[int], list[None]]
) -> None:
    await conn.publish(stream, eda.Event(data=eda.JSON(1)))
    await keep(admin, stream, headers_only=not opened)
    seen: list[Any] = []
    changed = insist(2) if not opened else []
    async with conn.subscribe(stream, lambda event: seen.append(event.data.decode()), name="team", durable=True) as sub:
        if opened:
            await until(lambda: seen == [1])
            changed = insist(2)
            await edit(admin, stream, headers_only=True)
            sub._pipeline.source.check_consumer("the test says so")
            await until(lambda: len(changed) == 3)
            await conn.publish(stream, eda.Event(data=eda.JSON(1)))
        await until(lambda: seen == [1] * (2 if opened else 1))
        assert len(changed) == 3
        assert (await admin.consumer(stream, "team"))["config"].get("headers_only") is None


async def test_consumer_when_every_change_is_undone_ends_the_subscription_naming_the_setting(
    conn: eda.Conn, stream: str, admin: Admin, insist: Callable[[int], list[None]], logged: Logged
) -> None:
    logged.expect("ends: .*headers_only")
    subscription = await conn.subscribe(stream, print, name="team", durable=True)
    changed = insist(1000)
    await edit(admin, stream, headers_only=True)
    subscription._pipeline.source.check_consumer("the test says so")
    with pytest.raises(eda.ConfigError, match=r"headers_only=True \(False is needed\), and still has that after 5"):
        await asyncio.wait_for(subscription.wait(), 10)
    assert len(changed) == 5


async def test_consumer_when_it_is_given_more_is_left_alone(
    conn: eda.Conn, stream: str, admin: Admin, often: None, logged: Logged
) -> None:
    """Two members of different releases, or an operator, are not fought over what takes nothing away."""
    async with conn.subscribe(stream, print, name="team", durable=True) as subscription:
        more = {"max_ack_pending": 100_000, "ack_wait": 60 * NS, "description": "ours"}
        await edit(admin, stream, **more)
        await until(lambda: subscription._pipeline.source.lease_s == 60)
        config = (await admin.consumer(stream, "team"))["config"]
        assert {setting: config.get(setting) for setting in more} == more
    assert not logged.find("that was changed")


async def test_consumer_when_it_is_paused_is_said_in_the_log_once(
    conn: eda.Conn, stream: str, admin: Admin, often: None, logged: Logged
) -> None:
    seen: list[eda.Event] = []
    async with conn.subscribe(stream, seen.append, name="team", durable=True) as subscription:
        await admin.api(f"CONSUMER.PAUSE.{stream}.team", {"pause_until": "2099-01-01T00:00:00Z"})
        await until(lambda: logged.find("paused its consumer until 2099", logging.WARNING))
        await conn.publish(stream)
        looked_at = subscription._pipeline.source._checked_at
        await until(lambda: subscription._pipeline.source._checked_at > looked_at + 0.5)
        assert len(logged.find("paused its consumer")) == 1
        await admin.api(f"CONSUMER.PAUSE.{stream}.team")
        await until(lambda: seen)


@pytest.mark.parametrize("opened", [False, True], ids=["kept", "while subscribed"])
async def test_consumer_when_it_may_not_be_changed_back_is_an_error_that_names_the_setting(
    opened: bool, logged: Logged, often: None
) -> None:
    logged.allow("the server forbids", "ends: ")
    users = [
        {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["$JS.API.CONSUMER.CREATE.>"]}}},
        {"user": "admin", "password": "p"},
    ]
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        url = f"nats://admin:p@127.0.0.1:{server.port}"
        client = await nats.connect(url)
        admin = Admin(client)
        async with eda.connect(url, client="c") as theirs, eda.connect(url.replace("admin", "u"), client="u") as ours:
            await theirs.publish("orders")
            await keep(admin, "orders", ack_wait=30 * NS, max_ack_pending=10, **({} if opened else {"max_deliver": 3}))
            with pytest.raises(eda.ConfigError, match=r"max_deliver=3 .*no permission"):
                subscription = await ours.subscribe("orders", lambda event: None, name="team", durable=True)
                assert opened
                # It goes on with what is no promise.
                assert logged.find("max_ack_pending=10.*can't be changed", logging.WARNING)
                await edit(admin, "orders", max_deliver=3)
                await asyncio.wait_for(subscription.wait(), 10)
        await client.close()


@pytest.mark.old_server
@pytest.mark.parametrize(
    "changes",
    [{"max_deliver": 3}, {"inactive_threshold": NS}, {"pause_until": "2099-01-01T00:00:00Z"}, {"filter": "x"}],
)
async def test_reader_when_somebody_changes_it_is_replaced(
    changes: dict[str, Any], conn: eda.Conn, stream: str, admin: Admin, often: None, logged: Logged, server_version: str
) -> None:
    if "filter" in changes:
        changes = {"filter_subject": f"{stream}.x"}
    if "pause_until" in changes and server_version == "2.10.26":
        changes = {"headers_only": True}  # it knows no pauses
    seen: list[str] = []
    async with conn.subscribe(stream, lambda event: seen.append(event.id)):
        (reader,) = await admin.consumers(stream)
        kept = (await admin.consumer(stream, reader))["config"]
        if "pause_until" in changes:
            await admin.api(f"CONSUMER.PAUSE.{stream}.{reader}", changes)
        else:
            body = {"stream_name": stream, "config": kept | changes, "action": "update"}
            await admin.api(f"CONSUMER.CREATE.{stream}.{reader}", body)
        await until(lambda: logged.find(f"changed its reader .{next(iter(changes))} was", logging.WARNING))
        await conn.publish(stream, eda.Event(id="one"))
        await until(lambda: seen == ["one"])
        assert reader not in await admin.consumers(stream)


@pytest.mark.old_server
async def test_reader_when_nobody_changes_it_is_kept(conn: eda.Conn, stream: str, admin: Admin, often: None) -> None:
    async with conn.subscribe(stream, print) as subscription:
        readers = await admin.consumers(stream)
        looked_at = subscription._pipeline.source._checked_at
        await until(lambda: subscription._pipeline.source._checked_at > looked_at + 0.5)
        assert await admin.consumers(stream) == readers


async def test_subscription_when_it_may_not_acknowledge_ends_rather_than_handle_for_ever(logged: Logged) -> None:
    logged.expect("the server forbids", "ends: .*no permission to publish to")
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["$JS.ACK.>"]}}}
    handled: list[eda.Event] = []
    async with eda.EmbeddedServer(config={"authorization": {"users": [user]}}) as server:
        url = f"nats://127.0.0.1:{server.port}"
        async with eda.connect(url, user="u", password="p", client="me") as conn:
            await conn.publish("orders")
            sub = await conn.subscribe("orders", handled.append, durable=True, backfill=True)
            with pytest.raises(eda.ServerError, match="no permission"):
                await asyncio.wait_for(sub.wait(), 10)
    assert len(handled) == 1


async def test_consumer_when_it_is_deleted_before_it_can_be_changed_back_ends_as_deleted(
    conn: eda.Conn, stream: str, admin: Admin, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    logged.expect("ends: .*was deleted")
    subscription = await conn.subscribe(stream, print, name="team", durable=True)
    await edit(admin, stream, max_deliver=3)
    create = Api.create_consumer

    async def after_the_deletion(*args: Any, **options: Any) -> Any:
        await admin.js.delete_consumer(stream, "team")
        return await create(*args, **options)

    monkeypatch.setattr(Api, "create_consumer", after_the_deletion)
    subscription._pipeline.source.check_consumer("the test says so")
    async with asyncio.timeout(10):
        with pytest.raises(eda.ConsumerDeleted):
            await subscription.wait()


async def test_stripped_event_when_closed_before_its_consumer_is_healed_is_given_back(
    conn: eda.Conn, stream: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next member does not have to wait until its lease ends."""
    options: dict[str, Any] = {"name": "team", "durable": True, "backfill": True, "lease_s": 3600}
    seen: list[int] = []
    async with conn.subscribe(stream, print, **options) as closed:
        source = closed._pipeline.source
        assert isinstance(source, SharedSource)
        monkeypatch.setattr(source._kept, "heal", lambda *_, **__: asyncio.Event().wait())
        await edit(admin, stream, headers_only=True)
        await conn.publish(stream)
        await until(lambda: source._stripped)
    async with conn.subscribe(stream, lambda event: seen.append(event.sequence), **options):
        await until(lambda: seen == [1])


@pytest.mark.parametrize("is_paused", [True, False])
@pytest.mark.parametrize("is_made_again", [True, False])
async def test_consumer_when_deleted_the_error_says_what_was_found_rather_than_when(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged, is_paused: bool, is_made_again: bool
) -> None:
    logged.expect("ends: .*was deleted")
    subscription = await conn.subscribe(stream, print, name="team", durable=True, backfill=True)
    if is_paused:
        subscription.pause()
    await asyncio.sleep(0.1)  # a consumer that is made within 20 ms of the first one passes for the same consumer
    assert await admin.api(f"CONSUMER.DELETE.{stream}.team")
    if is_made_again:
        await keep(admin, stream)
    subscription._pipeline.source.check_consumer("it is time to check it")
    with pytest.raises(eda.ConsumerDeleted) as caught:
        await asyncio.wait_for(subscription.wait(), 10)
    expected = f"consumer 'team' of stream '{stream}' was deleted"
    assert str(caught.value) in (expected, f"{expected}: somebody replaced it by another consumer of its name")


@pytest.mark.parametrize("kind", ["shared", "unwanted", "private"])
async def test_subscription_when_looking_at_its_consumer_has_a_bug_ends_loudly(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    logged.expect("a bug")
    logged.expect("failed")
    await conn.publish(stream, eda.Event(type="b"))
    options: dict[str, Any] = {} if kind == "private" else {"name": "team", "durable": True}
    subscription = await conn.subscribe(stream, print, types=["a"], backfill=True, **options)
    monkeypatch.setattr(Api, "consumer_info", fail)
    if kind == "unwanted":
        await admin.js.publish(stream, (await admin.js.get_msg(stream, 1)).data or b"")
    else:
        await until(lambda: subscription._pipeline.source.consumer)
        subscription._pipeline.source.check_consumer("it is time to check it")
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(subscription.wait(), 5)
    assert logged.find("failed", logging.CRITICAL)
