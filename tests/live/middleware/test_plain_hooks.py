"""The plain hook `mark`, `call_next.batch`, and middleware of its own for each connection."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import eda
from helpers import Connect
from support.middleware.hooks import Notes

T = eda.Event(type="t")


class Marks(eda.Middleware):
    """Adds its name to the meta entry `way`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[eda.Event] = []
        self.published: list[eda.Event] = []

    def mark(self, event: eda.Event, publisher: eda.Publisher) -> eda.Event:
        self.events.append(event)
        return event.replace(meta={**event.meta, "way": f"{event.meta.get('way', '')} {self.name}".strip()})

    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
        self.published.append(event)
        await call_next(event)


class Wrong(eda.Middleware):
    def mark(self, event: eda.Event, publisher: eda.Publisher) -> Any:
        if event.type == "refused":
            raise PermissionError("not this one")
        return None if event.type == "lost" else event


async def stored(connect: Connect, stream: str, n: int) -> list[eda.Event]:
    conn = await connect()
    async with conn.events(stream, backfill=True) as events:
        return [await anext(events) for _ in range(n)]


async def later(events: list[eda.Event]) -> AsyncIterator[eda.Event]:
    for event in events:
        yield event


def soon(events: list[eda.Event]) -> Iterator[eda.Event]:
    yield from events


FORMS: dict[str, Callable[[list[eda.Event]], Any]] = {"list": list, "iterator": soon, "async": later}


@pytest.mark.parametrize("pack", [None, eda.Pack()], ids=["plain", "packs"])
@pytest.mark.parametrize("form", ["send", *FORMS])
@pytest.mark.parametrize("has_chain", [False, True], ids=["marks", "chain"])
async def test_mark_when_a_publisher_sends_runs_in_place_of_publish(
    connect: Connect, stream: str, has_chain: bool, form: str, pack: eda.Pack | None
) -> None:
    one, two, notes = Marks("one"), Marks("two"), Notes("notes")
    conn = await connect(middleware=[one, notes, two] if has_chain else [one, two])
    await conn.streams.create(stream, eda.StreamOptions(packed=pack is not None))
    events = [eda.Event(type=f"t{number}") for number in range(1500)]
    async with conn.publisher(stream, pack=pack) as publisher:
        if form == "send":
            ids = [await publisher.send(event) for event in events]
        else:
            ids = await publisher.send_many(FORMS[form](events))
    assert [event.type for event in one.events] == [event.type for event in events]
    assert one.published == two.published == []
    there = await stored(connect, stream, 1500)
    assert [event.type for event in there] == [event.type for event in events]
    assert [event.id for event in there] == ids
    assert {event.meta["way"] for event in there} == {"one notes two" if has_chain else "one two"}


async def test_mark_when_the_program_waits_for_the_receipt_does_not_run(connect: Connect, stream: str) -> None:
    marks = Marks("one")
    conn = await connect(middleware=[marks])
    await conn.publish(stream, T)
    await conn.publish_batch(stream, [T])
    async with conn.publisher(stream) as publisher:
        await publisher.send_and_wait(T)
    assert (len(marks.published), marks.events) == (3, [])


@pytest.mark.parametrize("way", ["list", "iterator", "async", "send"])
@pytest.mark.parametrize("has_chain", [False, True], ids=["marks", "chain"])
async def test_mark_when_it_fails_tells_the_caller_and_the_events_before_are_sent(
    connect: Connect, stream: str, has_chain: bool, way: str
) -> None:
    conn = await connect(middleware=[Wrong(), Notes("notes")] if has_chain else [Wrong()])
    for kind, error, text in (
        ("refused", PermissionError, "not this one"),
        ("lost", eda.ConfigError, "middleware Wrong.mark must return an eda.Event, not NoneType"),
    ):
        events = [T, T, eda.Event(type=kind), T]
        async with conn.publisher(stream) as publisher:
            with pytest.raises(error, match=re.escape(text)) as caught:
                if way == "send":
                    for event in events:
                        await publisher.send(event)
                else:
                    await publisher.send_many(FORMS[way](events))
            if way != "send":
                assert caught.value.__notes__ == ["events[2]"]
    assert [event.type for event in await stored(connect, stream, 4)] == ["t"] * 4


async def test_mark_when_the_publisher_takes_no_events_does_not_run(connect: Connect, stream: str) -> None:
    marks = Marks("one")
    conn = await connect(middleware=[marks])
    publisher = conn.publisher(stream)
    for send in (publisher.send(T), publisher.send_many([T])):
        with pytest.raises(eda.Closed):
            await send
    async with conn.publisher(stream) as publisher:
        with pytest.raises(eda.ConfigError, match=r"event must be an eda\.Event, not str"):
            await publisher.send("t")  # type: ignore[arg-type]
        with pytest.raises(eda.ConfigError, match="events must be an iterable"):
            await publisher.send_many(5)  # type: ignore[arg-type]
    for send in (publisher.send(T), publisher.send_many([T])):
        with pytest.raises(eda.Closed):
            await send
    assert marks.events == []


async def test_batch_when_events_are_published_together_is_one_object(connect: Connect, stream: str) -> None:
    seen: list[Any] = []

    class Batches(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            seen.append(call_next.batch)
            await call_next(event)

    conn = await connect(middleware=[Batches()])
    await conn.publish(stream, T)
    await conn.publish_batch(stream, [T, T])
    assert seen[0] is None
    assert seen[1] is seen[2]
    assert [event.type for event in seen[1].events] == ["t", "t"]
    async with conn.publisher(stream) as publisher:
        await publisher.send(T)
    assert seen[3] is None


class PerConnection(eda.Middleware):
    """Makes a middleware for each connection."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.made: list[Marks] = []

    def bound_to(self, conn: eda.Conn) -> Any:
        self.made.append(Marks(conn.client))
        return self.result or self.made[-1]


async def test_middleware_when_it_is_bound_has_an_object_for_each_connection(connect: Connect, stream: str) -> None:
    middleware = PerConnection()
    for client in ("one", "two"):
        conn = await connect(client=client, middleware=[middleware])
        async with conn.publisher(stream) as publisher:
            await publisher.send(T)
    assert [len(marks.events) for marks in middleware.made] == [1, 1]
    assert [event.meta["way"] for event in await stored(connect, stream, 2)] == ["one", "two"]


class NotPlain(eda.Middleware):
    async def observe(self, given: Any, subscription: Any) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize(
    ("middleware", "text"),
    [
        (PerConnection(5), "middleware PerConnection.bound_to must return an eda.Middleware, not int"),
        (PerConnection(NotPlain()), "middleware hook NotPlain.observe must be a plain function, not an async def"),
        (NotPlain(), "middleware hook NotPlain.observe must be a plain function, not an async def"),
    ],
    ids=["no-middleware", "wrong-hook", "not-plain"],
)
def test_connect_when_bound_middleware_can_not_work_is_refused(middleware: eda.Middleware, text: str) -> None:
    with pytest.raises(eda.ConfigError, match=re.escape(text)):
        eda.connect("nats://127.0.0.1:4222", middleware=[middleware])


async def test_server_when_connected_is_the_one_of_the_address(connect: Connect, server: eda.EmbeddedServer) -> None:
    conn = await connect()
    assert conn.server is not None
    host, port = conn.server
    assert f"{host}:{port}" in server.url
    await conn.close()
    assert conn.server is None
