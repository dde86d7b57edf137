"""Event stores of users to whom the server forbids something: the error comes at once and names the subject."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import eda
from helpers import Logged

STREAM = "orders"
FORBIDDEN = {
    "msg": "$JS.API.STREAM.MSG.GET.>",
    "direct": "$JS.API.DIRECT.GET.>",
    "publish": f"{STREAM}.>",
    "info": "$JS.API.STREAM.INFO.>",
    "purge": "$JS.API.STREAM.PURGE.>",
}


def added(n: int) -> eda.Event:
    return eda.Event(type="added", data=eda.JSON(n))


def evolve(total: int, event: eda.Event) -> int:
    n: int = event.data.decode()
    return total + n


def decide(_: int, command: int) -> list[eda.Event]:
    return [added(1)] * command


DECIDER = eda.Decider(0, evolve, decide, state=int)

Store = eda.EventStore[int, int]


@pytest.fixture
async def urls() -> AsyncIterator[dict[str, str]]:
    """The server's URL of each user; `root` may do everything. The stream has the aggregate `a` with three events."""
    users: list[dict[str, Any]] = [
        {"user": name, "password": "p", "permissions": {"publish": {"deny": [subject]}, "subscribe": ">"}}
        for name, subject in FORBIDDEN.items()
    ]
    users.append({"user": "root", "password": "p"})
    async with eda.EmbeddedServer(config={"authorization": {"users": users}}) as server:
        address = server.url.partition("//")[2]
        found = {user["user"]: f"nats://{user['user']}:p@{address}" for user in users}
        async with eda.connect(found["root"]) as conn:
            await conn.store(STREAM, DECIDER).execute("a", 3)
        yield found


async def names(store: Store) -> list[str]:
    return [name async for name in store.aggregates()]


CALLS: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "load": lambda store: store.load("a"),
    "history": lambda store: store.history("a"),
    "new": lambda store: store.append("b", [added(1)], expected="new"),
    "any": lambda store: store.append("a", [added(1)], expected="any"),
    "version": lambda store: store.append("a", [added(1)], expected=3),
    "several": lambda store: store.append("a", [added(1)] * 2, expected="any"),
    "execute": lambda store: store.execute("a", 1),
    "execute several": lambda store: store.execute("a", 2, command_id="c"),
    "load nothing": lambda store: store.load("nothing"),
    "forget nothing": lambda store: store.forget("nothing"),
    "aggregates": names,
    "forget": lambda store: store.forget("a"),
}


@pytest.mark.parametrize(
    ("user", "refused", "subject"),
    [
        # A stream with a single copy answers direct gets exactly, but the leader must confirm that there is nothing.
        ("msg", {"load nothing", "forget nothing"}, "$JS.API.STREAM.MSG.GET.orders"),
        ("direct", {"load", "history", "execute", "execute several"}, "$JS.API.DIRECT.GET.orders"),
        ("publish", set(CALLS) - {"load", "history", "load nothing", "forget nothing", "aggregates"}, "orders."),
        ("info", set(CALLS), "$JS.API.STREAM.INFO.orders"),
        ("purge", {"forget", "forget nothing"}, "$JS.API.STREAM.PURGE.orders"),
    ],
    ids=list(FORBIDDEN),
)
async def test_call_when_the_server_forbids_it_raises_at_once_and_does_nothing(
    urls: dict[str, str], logged: Logged, user: str, refused: set[str], subject: str
) -> None:
    logged.expect("the server forbids")
    async with eda.connect(urls[user]) as conn, eda.connect(urls["root"]) as root:
        for name in sorted(refused):
            before = (await root.streams.info(STREAM)).last_sequence
            async with asyncio.timeout(4):
                with pytest.raises(eda.ServerError, match=f"no permission to publish to {re.escape(subject)}") as error:
                    await CALLS[name](conn.store(STREAM, DECIDER))
            assert error.value.code == 403
            assert (await root.streams.info(STREAM)).last_sequence == before, name
        assert [event.version for event in await root.store(STREAM).history("a")] == [1, 2, 3]
        if user != "info":
            for name in sorted(set(CALLS) - refused - {"forget", "version"}):
                await CALLS[name](conn.store(STREAM, DECIDER))
