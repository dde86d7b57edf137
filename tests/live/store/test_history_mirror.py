"""Exact reads of aggregates while mirrors of the stream answer direct gets: each mirror of a store's stream does so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
from helpers import Admin, until
from support.store.versions import on_able_servers


def evolve(state: tuple[int, ...], event: eda.Event) -> tuple[int, ...]:
    return (*state, event.data.decode())


def decide(_: Any, commands: list[int]) -> list[eda.Event]:
    return [eda.Event(type=f"t{n % 3}", data=eda.JSON(n)) for n in commands]


DECIDER: eda.Decider[tuple[int, ...], list[int]] = eda.Decider((), evolve, decide, state=tuple[int, ...])


class Mirrors:
    """Makes mirrors of the stream."""

    def __init__(self, admin: Admin, stream: str) -> None:
        self.admin = admin
        self.stream = stream
        self.name = f"{stream}-mirror"

    async def create(self, n: int, **settings: Any) -> None:
        """Make a mirror, and wait until it has `n` messages and answers direct gets of the stream."""
        mirror = {"name": self.stream, **settings}
        config = {"name": self.name, "mirror": mirror, "mirror_direct": True, "allow_direct": True, "storage": "memory"}
        await self.admin.api(f"STREAM.CREATE.{self.name}", config)
        await until(lambda: self.has(n))
        await until(self.answers)

    async def has(self, n: int) -> bool:
        state: dict[str, Any] = (await self.admin.api(f"STREAM.INFO.{self.name}"))["state"]
        return state["messages"] == n

    async def answers(self) -> bool:
        state = (await self.admin.api(f"STREAM.INFO.{self.name}"))["state"]
        query = json.dumps({"seq": state["last_seq"]}).encode()
        answer = await self.admin.client.request(f"$JS.API.DIRECT.GET.{self.stream}", query, timeout=5)
        return (answer.headers or {}).get("Nats-Stream") == self.name


@pytest.fixture
async def mirrors(admin: Admin, stream: str) -> AsyncIterator[Mirrors]:
    mirrors = Mirrors(admin, stream)
    yield mirrors
    await admin.js.delete_stream(mirrors.name)


@on_able_servers
@pytest.mark.parametrize(
    ("settings", "n"), [({"opt_start_seq": 8}, 3), ({"filter": "t1"}, 3), ({}, 10)], ids=["late", "filtered", "whole"]
)
async def test_load_when_a_mirror_with_a_part_of_the_stream_answers_is_exact(
    conn: eda.Conn, stream: str, mirrors: Mirrors, settings: dict[str, Any], n: int
) -> None:
    for number in range(10):
        await conn.store(stream, DECIDER).execute("a", [number])
    if "filter" in settings:
        settings = {"filter_subject": f"{stream}.{settings['filter']}.>"}
    await mirrors.create(n, **settings)
    for _ in range(10):
        loaded = await conn.store(stream, DECIDER).load("a")
        assert (loaded.state, loaded.version) == (tuple(range(10)), 10)
    result = await conn.store(stream, DECIDER).execute("a", [10])
    assert result.state == tuple(range(11))


@on_able_servers
@pytest.mark.parametrize("n", [10, 150], ids=["by sequences", "by subjects"])
@pytest.mark.parametrize("how", ["load", "history", "from a baseline"])
async def test_load_when_a_mirror_has_the_events_of_a_stream_that_was_deleted_is_exact(
    conn: eda.Conn, stream: str, mirrors: Mirrors, n: int, how: str
) -> None:
    """The mirror keeps the events of before, at the same sequences and with the same versions."""
    await conn.store(stream, DECIDER).execute("a", list(range(n)))
    await mirrors.create(n)
    await conn.streams.delete(stream)
    store, new = conn.store(stream, DECIDER), list(range(1000, 1000 + n))
    await store.execute("a", new[: n // 2])
    await conn.store(stream, DECIDER).execute("a", new[n // 2 :])
    for _ in range(5):
        if how == "history":
            found = tuple(event.data.decode() for event in await conn.store(stream).history("a"))
        elif how == "load":
            found = (await conn.store(stream, DECIDER).load("a")).state or ()
        else:
            with pytest.raises(eda.VersionConflict) as caught:
                await store.append("a", [eda.Event(type="t0")], expected=n // 2)
            found = (*new[: n // 2], *(event.data.decode() for event in caught.value.events))
        assert found == tuple(new)
