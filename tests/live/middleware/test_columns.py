"""Middleware around the events of `send_columns`."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from helpers import Connect
from support.middleware.hooks import Notes

N = 1500


class Marks(eda.Middleware):
    """Adds its name to the meta entry `way`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[eda.Event] = []

    def mark(self, event: eda.Event, publisher: eda.Publisher) -> eda.Event:
        self.events.append(event)
        return event.replace(meta={**event.meta, "way": f"{event.meta.get('way', '')} {self.name}".strip()})


class Refuses(eda.Middleware):
    """Refuses an event, or loses it."""

    def mark(self, event: eda.Event, publisher: eda.Publisher) -> Any:
        if event.type == "refused":
            raise PermissionError("not this one")
        return None if event.type == "lost" else event


class Publishes(Refuses):
    """Does the same in the hook `publish`."""

    mark = eda.Middleware.mark

    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
        if event.type == "refused":
            raise PermissionError("not this one")
        if event.type != "lost":
            await call_next(event)


async def stored(connect: Connect, stream: str, n: int) -> list[eda.Event]:
    conn = await connect()
    async with conn.events(stream, backfill=True) as events:
        return [await anext(events) for _ in range(n)]


@pytest.mark.parametrize("pack", [None, eda.Pack()], ids=["plain", "packs"])
@pytest.mark.parametrize("kind", ["marks", "chain", "publish"])
async def test_hooks_when_columns_are_sent_run_once_for_each_row(
    connect: Connect, stream: str, kind: str, pack: eda.Pack | None
) -> None:
    one, two, notes = Marks("one"), Marks("two"), Notes("notes")
    layers: dict[str, list[eda.Middleware]] = {"marks": [one, two], "chain": [one, notes, two], "publish": [notes]}
    conn = await connect(middleware=layers[kind])
    await conn.streams.create(stream, eda.StreamOptions(packed=pack is not None))
    types = [f"t{row}" for row in range(N)]
    async with conn.publisher(stream, pack=pack) as publisher:
        ids = await publisher.send_columns(type=types, data=[b"%d" % row for row in range(N)])
    seen = notes.events if kind == "publish" else one.events
    assert [(event.type, event.data.decode()) for event in seen] == [(f"t{row}", b"%d" % row) for row in range(N)]
    there = await stored(connect, stream, N)
    assert [event.type for event in there] == types
    assert [event.id for event in there] == ids
    assert {event.meta["way"] for event in there} == {" ".join(str(each.name) for each in layers[kind])}  # type: ignore[attr-defined]


@pytest.mark.parametrize("hook", [Refuses, Publishes])
async def test_hooks_when_they_refuse_a_row_name_it_and_the_rows_before_are_sent(
    connect: Connect, stream: str, hook: type[eda.Middleware]
) -> None:
    conn = await connect(middleware=[hook()])
    async with conn.publisher(stream) as publisher:
        with pytest.raises(PermissionError, match="not this one") as refused:
            await publisher.send_columns(type=["a", "b", "refused", "c"])
        assert refused.value.__notes__ == ["row 2"]
        with pytest.raises(eda.ConfigError) as lost:
            await publisher.send_columns(type=["d", "lost", "e"])
        assert "row 1" in "\n".join([str(lost.value), *getattr(lost.value, "__notes__", [])])
    assert [event.type for event in await stored(connect, stream, 3)] == ["a", "b", "d"]
    assert publisher.stats().sent == 3


@pytest.mark.parametrize("hooks", [Marks, Notes])
async def test_hooks_when_columns_are_wrong_or_the_publisher_is_closed_do_not_run(
    connect: Connect, stream: str, hooks: type[Any]
) -> None:
    layer = hooks("n")
    conn = await connect(middleware=[layer])
    publisher = conn.publisher(stream)
    with pytest.raises(eda.Closed):
        await publisher.send_columns(type=["t"])
    async with publisher:
        for given in ({"type": "t"}, {"type": ["t"], "data": []}, {"type": ["t"], "time": 0}):
            with pytest.raises(eda.ConfigError):
                await publisher.send_columns(**given)
        assert await publisher.send_columns(type=[]) == []
        with pytest.raises(eda.ConfigError, match=r"^row 0: type must be a str, not int"):
            await publisher.send_columns(type=[5])
    with pytest.raises(eda.Closed):
        await publisher.send_columns(type=["t"])
    assert layer.events == []
