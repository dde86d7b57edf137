"""Dead-letter streams that can't keep letters are refused; what is full or away for a while is waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
import eda.handling.dead_lettering
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys
from support.dead_letters.letters import stored

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT,
    "serial": {"serial": True, **KEPT},
    "batch": {"exclusive": True, "batch": 5, **KEPT},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def reject(event: object) -> None:
    raise eda.Reject("no")


@pytest.fixture
async def dead(stream: str, admin: Admin) -> AsyncIterator[str]:
    """The dead-letter stream of the test's stream; deleted afterwards."""
    name = f"{stream}-dead"
    yield name
    with suppress(NatsError):
        await admin.js.delete_stream(name)


async def assert_nothing_acknowledged(admin: Admin, stream: str, kind: str) -> None:
    if kind == "shared":
        assert (await admin.consumer(stream, "me"))["ack_floor"]["stream_seq"] == 0
    else:
        value = await Keys(admin, stream, "me").get()
        assert value is not None
        assert value["seq"] == 0


# --- refused at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["same", "{stream}"])
@pytest.mark.parametrize("way", ["subscribe", "events"])
async def test_dead_letter_when_it_is_the_stream_itself_is_refused(
    conn: eda.Conn, stream: str, given: str, way: str
) -> None:
    name = given.replace("same", stream)
    with pytest.raises(eda.ConfigError, match=r"the stream .* itself") as caught:
        if way == "events":
            conn.events(stream, dead_letter=name)
        else:
            conn.subscribe(stream, reject, dead_letter=name)
    assert caught.value.argument == "dead_letter"


async def test_replay_when_the_letters_are_said_to_lie_in_the_stream_itself_is_refused(
    conn: eda.Conn, stream: str
) -> None:
    await conn.publish(stream)
    with pytest.raises(eda.ConfigError, match=r"the stream .* itself"):
        await conn.replay_dead(stream, "me", dead_letter="{stream}")


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "no_ack": ({"no_ack": True}, "has no_ack set"),
    "sealed": ({"sealed": True}, "is sealed"),
    "mirror": ({"subjects": None, "mirror": {"name": "{stream}"}}, "is a mirror of"),
    "interest": ({"retention": "interest"}, "has retention 'interest' and no consumer"),
    "elsewhere": ({"subjects": ["{stream}-x.>"]}, "does not listen to .* .it listens to '.*-x.>'"),
    "only_sources": ({"subjects": None, "sources": [{"name": "{stream}"}]}, "does not listen to"),
}


def config_of(stream: str, dead: str, changes: dict[str, Any]) -> dict[str, Any]:
    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{stream}", stream)
        if isinstance(value, list):
            return [filled(each) for each in value]
        return {key: filled(each) for key, each in value.items()} if isinstance(value, dict) else value

    config = {"name": dead, "subjects": [dead, f"{dead}.>"]} | {key: filled(each) for key, each in changes.items()}
    return {key: each for key, each in config.items() if each is not None}


async def make(admin: Admin, stream: str, dead: str, changes: dict[str, Any]) -> None:
    """Make the dead-letter stream; a stream can be sealed only afterwards."""
    config = config_of(stream, dead, changes)
    if "sealed" in config:
        await admin.api(f"STREAM.CREATE.{dead}", {key: each for key, each in config.items() if key != "sealed"})
        await admin.api(f"STREAM.UPDATE.{dead}", config)
    else:
        await admin.api(f"STREAM.CREATE.{dead}", config)


@pytest.mark.parametrize(("changes", "why"), UNFIT.values(), ids=UNFIT)
async def test_dead_letter_stream_when_it_can_not_keep_letters_is_refused_at_subscribe(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, changes: dict[str, Any], why: str
) -> None:
    await conn.publish(stream)
    await make(admin, stream, dead, changes)
    with pytest.raises(eda.ConfigError, match=f"dead_letter: stream '{dead}' {why}.* needs retention 'limits'"):
        await conn.subscribe(stream, reject, **KEPT)
    async with conn.subscribe(stream, lambda event: None, dead_letter=None, **KEPT) as subscription:
        await until(lambda: subscription.stats().handled == 1)


@each_kind
@pytest.mark.parametrize(("changes", "why"), UNFIT.values(), ids=UNFIT)
async def test_dead_letter_stream_when_it_is_made_unfit_later_ends_the_subscription_and_acknowledges_nothing(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, kind: str, changes: dict[str, Any], why: str, logged: Logged
) -> None:
    logged.expect("rejected", "which stays where it is; the subscription ends", "ends: ")
    await conn.streams.create(stream)
    subscription = await conn.subscribe(stream, reject, **KINDS[kind])
    await make(admin, stream, dead, changes)
    await conn.publish(stream)
    with pytest.raises(eda.ConfigError, match=why):
        await subscription.wait()
    assert subscription.stats().dead_lettered == 0
    await assert_nothing_acknowledged(admin, stream, kind)


async def test_dead_letter_stream_when_it_has_interest_and_a_consumer_keeps_letters(
    conn: eda.Conn, stream: str, dead: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("rejected")
    await make(admin, stream, dead, {"retention": "interest"})
    await admin.api(
        f"CONSUMER.CREATE.{dead}.c", {"stream_name": dead, "config": {"durable_name": "c", "ack_policy": "explicit"}}
    )
    await conn.publish(stream)
    async with conn.subscribe(stream, reject, **KEPT) as subscription:
        await until(lambda: subscription.stats().dead_lettered == 1)
    assert len(await stored(admin, dead)) == 1


async def test_dead_letter_stream_when_the_stream_copies_it_is_refused(
    conn: eda.Conn, stream: str, dead: str, admin: Admin
) -> None:
    await conn.streams.create(dead)
    for config in ({"sources": [{"name": dead}]}, {"mirror": {"name": dead}}):
        await admin.api(f"STREAM.CREATE.{stream}", {"name": stream} | config)
        with pytest.raises(eda.ConfigError, match=f"'{stream}' copies stream '{dead}'"):
            await conn.subscribe(stream, reject, backfill=True)
        await admin.js.delete_stream(stream)


async def test_dead_letter_stream_when_the_stream_listens_to_its_subjects_is_refused(
    conn: eda.Conn, stream: str, dead: str, admin: Admin
) -> None:
    await admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.>", f"{dead}.>"]})
    with pytest.raises(eda.ConfigError, match=f"itself listens to the subjects of stream '{dead}'"):
        await conn.subscribe(stream, reject, **KEPT)


# --- refused later, or full ------------------------------------------------------------------------------------------


@each_kind
async def test_dead_letter_when_it_may_not_be_published_ends_the_subscription(kind: str, logged: Logged) -> None:
    logged.expect("rejected", "the server forbids", "where it is; the subscription ends: .*no permission", "ends: ")
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["s-dead.>"]}}}
    async with (
        eda.EmbeddedServer(config={"authorization": {"users": [user]}}) as server,
        eda.connect(f"nats://127.0.0.1:{server.port}", user="u", password="p") as conn,
    ):
        await conn.publish("s")
        subscription = await conn.subscribe("s", reject, **KINDS[kind])
        with pytest.raises(eda.ServerError, match="no permission") as caught:
            await subscription.wait()
        assert caught.value.code == 403


@each_kind
async def test_dead_letter_when_its_stream_is_full_is_stored_once_an_operator_makes_room(
    conn: eda.Conn,
    stream: str,
    dead: str,
    admin: Admin,
    kind: str,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged.expect("rejected", "did not store event .* which stays where it is: .*maximum messages")
    monkeypatch.setattr(eda.handling.dead_lettering, "STORE_RETRY", eda.Retry(initial_s=0.05, factor=1))
    await conn.streams.create(dead, eda.StreamOptions(max_events=1, discard="new"))
    for _ in range(2):
        await conn.publish(stream, eda.Event(aggregate="a"))
    async with conn.subscribe(stream, reject, **KINDS[kind]) as subscription:
        await until(lambda: len(logged.find("maximum messages")) >= 3)
        assert subscription.stats().dead_lettered == 1
        assert not subscription.is_closed
        await admin.js.purge_stream(dead)
        await until(lambda: subscription.stats().dead_lettered == 2)


async def test_dead_letter_when_its_stream_was_opened_by_another_client_and_is_missing_is_told_as_kept(
    connect: Connect, stream: str, dead: str, logged: Logged
) -> None:
    logged.expect("rejected event .* which is to be stored in dead-letter stream", "did not store .* which stays")
    conn = await connect(auto_create=False)
    await (await connect()).publish(stream)
    async with conn.subscribe(stream, reject, **KEPT):
        await until(lambda: logged.find(f"did not store .* which stays where it is: StreamNotFound: stream '{dead}'"))
    assert not logged.find("passed over|skipped")
