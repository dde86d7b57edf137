"""Positions that are moved or forgotten while something else happens to the subscription."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client

import eda
import eda.subscribing.pipeline
from eda.cursors.entry import CursorEntry
from eda.jetstream.api import Api
from eda.subscribing.kept import KeptSubscriptions
from helpers import Admin, Connect, Logged, until
from support.cursors.member import Keys
from support.subscribing.kept import DELETED, ORDERED, N, die_at, fill, handle_all, member, places


@pytest.fixture
async def filled(conn: eda.Conn, stream: str) -> str:
    """A stream with ten events."""
    await fill(conn, stream)
    return stream


async def test_delete_when_a_member_opens_meanwhile_is_refused(
    conn: eda.Conn, connect: Connect, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle_all(conn, filled, **ORDERED)
    operator = await connect()
    remove = CursorEntry.remove
    async with contextlib.AsyncExitStack() as opened:

        async def remove_late(entry: CursorEntry, revision: int) -> bool:
            sub, _ = await opened.enter_async_context(member(conn, filled, **ORDERED))
            await until(lambda: sub.is_active)
            return await remove(entry, revision)

        monkeypatch.setattr(CursorEntry, "remove", remove_late)
        with pytest.raises(eda.ConfigError, match="can't be deleted while"):
            await operator.delete_subscription(filled, "n")
        monkeypatch.undo()
        (info,) = await operator.subscriptions(filled)
        assert info.position == N
        await conn.publish(filled)


async def test_delete_when_the_position_is_moved_meanwhile_forgets_it(
    conn: eda.Conn, connect: Connect, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle_all(conn, filled, **ORDERED)
    operator = await connect()
    remove = CursorEntry.remove

    async def remove_late(entry: CursorEntry, revision: int) -> bool:
        monkeypatch.undo()
        await conn.move_subscription(filled, "n", to=3)
        return await remove(entry, revision)

    monkeypatch.setattr(CursorEntry, "remove", remove_late)
    assert await operator.delete_subscription(filled, "n")
    assert await conn.subscriptions(filled) == []


# --- shared ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies"])
async def test_move_when_a_member_has_looked_before_and_creates_after_the_deletion_holds(
    conn: eda.Conn, connect: Connect, filled: str, admin: Admin, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    await handle_all(conn, filled)
    operator = await connect()
    is_deleted, may_go_on = asyncio.Event(), asyncio.Event()
    look = eda.subscribing.pipeline.check_other_kind
    moves: list[asyncio.Task[eda.SubscriptionMove]] = []

    async def stop(self: KeptSubscriptions, stream: str, name: str) -> None:
        is_deleted.set()
        await may_go_on.wait()

    async def look_and_move(*arguments: Any, **options: Any) -> Any:
        found = await look(*arguments, **options)
        moves.append(asyncio.create_task(operator.move_subscription(filled, "n", to=4)))
        await is_deleted.wait()
        return found

    monkeypatch.setattr(KeptSubscriptions, "_forget_suspects", stop)
    monkeypatch.setattr(eda.subscribing.pipeline, "check_other_kind", look_and_move)
    async with member(conn, filled) as (_, got):
        if dies:
            moves[0].cancel()
            await asyncio.wait(moves)
        else:
            may_go_on.set()
            assert (await moves[0]).after == "3"
        await conn.publish(filled)
        await until(lambda: got[-1:] == [str(N + 1)])
    assert got == places(4, N + 1)
    assert await Keys(admin, filled).get() is None, "the moved position is left"


def elsewhere(admin: Admin, stream: str, before: dict[str, Any]) -> Callable[..., Any]:
    """Return a step of the move at which a consumer comes to be as a member that knows of no move makes it."""

    async def create(*_: Any) -> None:
        config = {key: value for key, value in before["config"].items() if not key.startswith("opt_")}
        await admin.api(
            f"CONSUMER.CREATE.{stream}.n", {"stream_name": stream, "config": config | {"deliver_policy": "new"}}
        )

    return create


async def test_move_when_a_consumer_elsewhere_is_in_its_way_replaces_it(
    conn: eda.Conn, filled: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle_all(conn, filled)
    create = elsewhere(admin, filled, await admin.consumer(filled, "n"))
    monkeypatch.setattr(KeptSubscriptions, "_forget_suspects", create)
    assert (await conn.move_subscription(filled, "n", to=8)).after == "7"
    monkeypatch.undo()
    assert await Keys(admin, filled).get() is None, "the moved position is left"
    assert await handle_all(conn, filled, 3) == places(8)


async def test_move_when_a_program_creates_a_consumer_of_its_own_meanwhile_leaves_that_alone(
    conn: eda.Conn, filled: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle_all(conn, filled)

    async def create(*_: Any) -> None:
        await admin.js.pull_subscribe(f"{filled}.>", durable="n", stream=filled)

    monkeypatch.setattr(KeptSubscriptions, "_forget_suspects", create)
    with pytest.raises(eda.ServerError, match="already exists"):
        await conn.move_subscription(filled, "n", to=8)
    assert (await admin.consumer(filled, "n"))["config"]["deliver_policy"] == "all"


async def test_member_when_a_dead_mover_left_a_consumer_elsewhere_replaces_it(
    conn: eda.Conn, filled: str, admin: Admin, server: eda.EmbeddedServer
) -> None:
    await handle_all(conn, filled)
    before = await admin.consumer(filled, "n")
    await die_at(server, filled, 8, DELETED)
    await elsewhere(admin, filled, before)()
    assert await handle_all(conn, filled, 3) == places(8)
    assert await Keys(admin, filled).get() is None, "the moved position is left"


async def test_move_when_a_member_creates_the_consumer_at_an_earlier_move_holds(
    conn: eda.Conn, connect: Connect, filled: str, admin: Admin, server: eda.EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await handle_all(conn, filled)
    await die_at(server, filled, 4, DELETED)
    operator, create = await connect(), Api.create_consumer

    async def move_and_create(self: Api, *arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        await operator.move_subscription(filled, "n", to=8)
        return await create(self, *arguments, **options)

    monkeypatch.setattr(Api, "create_consumer", move_and_create)
    assert await handle_all(conn, filled, 3) == places(8)
    assert await Keys(admin, filled).get() is None, "the moved position is left"


async def test_move_when_a_member_creates_the_consumer_at_an_earlier_move_and_dies_holds(
    conn: eda.Conn, filled: str, admin: Admin, server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await handle_all(conn, filled)
    before = await admin.consumer(filled, "n")
    await die_at(server, filled, 4, DELETED)
    note = KeptSubscriptions._note

    async def note_late(*arguments: Any) -> Any:
        moved = await note(*arguments)
        await elsewhere(admin, filled, before)()
        return moved

    monkeypatch.setattr(KeptSubscriptions, "_note", note_late)
    await conn.move_subscription(filled, "n", to=8)
    assert await handle_all(conn, filled, 3) == places(8)


# --- where nobody may look -------------------------------------------------------------------------------------------


async def test_member_when_it_may_not_look_for_a_moved_position_says_so_if_it_creates_the_consumer(
    logged: Logged,
) -> None:
    logged.expect("the server forbids: ")
    deny = ["$JS.API.STREAM.MSG.GET.KV_eda-cursors"]
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": deny}}}
    async with (
        eda.EmbeddedServer(config={"authorization": {"users": [user]}}) as server,
        eda.connect(f"nats://127.0.0.1:{server.port}", user="u", password="p") as conn,
    ):
        await fill(conn, "orders")
        for n_told in (1, 1, 2):
            if n_told == 2:
                await conn.streams.delete("orders")
                await fill(conn, "orders")
            async with member(conn, "orders"):
                pass
            assert len(logged.find("not known whether somebody has moved the position")) == n_told
        async with conn.subscribe("orders", print, name="other"):
            pass
        assert len(logged.find("not known whether somebody has moved the position")) == 2


FEW = {"user": "few", "password": "p", "permissions": {"publish": {"deny": ["$JS.API.CONSUMER.DELETE.>"]}}}
USERS = {"authorization": {"users": [{"user": "all", "password": "p"}, FEW]}}
REFUSED = r"no permission to publish to \$JS\.API\.CONSUMER\.DELETE"


@contextlib.asynccontextmanager
async def two_users() -> AsyncIterator[tuple[eda.Conn, eda.Conn, Client]]:
    """Connect as a user who may do all and as one who may not delete consumers; the client may do all."""
    async with eda.EmbeddedServer(config=USERS) as server:
        url = f"nats://127.0.0.1:{server.port}"
        client = await nats.connect(url, user="all", password="p")
        try:
            async with (
                eda.connect(url, user="all", password="p") as conn,
                eda.connect(url, user="few", password="p") as operator,
            ):
                await fill(conn, "orders")
                await handle_all(conn, "orders")
                yield conn, operator, client
        finally:
            await client.close()


async def test_move_when_the_user_may_not_delete_consumers_leaves_the_old_position(logged: Logged) -> None:
    logged.expect("the server forbids: ")
    async with two_users() as (conn, operator, client):
        with pytest.raises(eda.ServerError, match=REFUSED):
            await operator.move_subscription("orders", "n", to=3)
        (info,) = await conn.subscriptions("orders")
        assert info.position == N
        await client.jetstream().delete_consumer("orders", "n")
        assert await conn.subscriptions("orders") == [], "the position of the failed move is still there"


async def test_move_when_a_consumer_comes_in_its_way_that_the_user_may_not_delete_leaves_no_position(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.expect("the server forbids: ")
    async with two_users() as (conn, operator, client):
        before = (await client.jetstream().consumer_info("orders", "n")).config.as_dict()

        async def stop(*_: Any) -> None:
            raise eda.Timeout("the operator's patience", 0)

        with monkeypatch.context() as patched, pytest.raises(eda.Timeout):
            patched.setattr(KeptSubscriptions, "_forget_suspects", stop)
            await conn.move_subscription("orders", "n", to=8)  # ends with a position, and without a consumer
        note = KeptSubscriptions._note

        async def note_and_create(*arguments: Any) -> Any:
            moved = await note(*arguments)
            body = {"stream_name": "orders", "config": before | {"deliver_policy": "new"}}
            answer = await client.request("$JS.API.CONSUMER.CREATE.orders.n", json.dumps(body).encode())
            assert "error" not in json.loads(answer.data)
            return moved

        monkeypatch.setattr(KeptSubscriptions, "_note", note_and_create)
        with pytest.raises(eda.ServerError, match=REFUSED):
            await operator.move_subscription("orders", "n", to=3)
        await client.jetstream().delete_consumer("orders", "n")
        assert await conn.subscriptions("orders") == [], "the position of the failed move is still there"


async def test_move_when_neither_the_consumer_nor_the_position_can_be_deleted_says_so(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.expect("the server forbids: ")

    async def never(*_: Any) -> bool:
        raise eda.Timeout("removing", 1)

    async with two_users() as (_, operator, _):
        monkeypatch.setattr(CursorEntry, "remove", never)
        with pytest.raises(eda.ServerError, match=REFUSED) as caught:
            await operator.move_subscription("orders", "n", to=3)
        assert "could not be removed: removing" in caught.value.__notes__[0]
