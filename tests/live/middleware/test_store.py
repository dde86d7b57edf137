"""An event store on a connection with middleware: appended events pass `publish`, events that are read pass `load`."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from helpers import Connect, until
from support.middleware.hooks import Base64, PublishHook, Zlib


def evolve(words: list[str], event: eda.Event) -> list[str]:
    return [*words, event.data.decode()]


def decide(words: list[str], command: str) -> list[eda.Event]:
    return [eda.Event(type="said", data=eda.String(word)) for word in command.split()]


DECIDER: eda.Decider[list[str], str] = eda.Decider(list, evolve, decide, state=list[str])


async def test_store_when_layers_encode_the_data_folds_what_was_meant(connect: Connect, stream: str) -> None:
    conn, plain = await connect(middleware=[Zlib(), Base64()]), await connect()
    store = conn.store(stream, DECIDER, snapshot_every=2)
    result = await store.execute("a", "hello world")
    assert (result.version, result.state) == (2, ["hello", "world"])
    await store.append("a", [eda.Event(type="said", data=eda.String("again"))], expected=2)
    stored = await plain.store(stream).history("a")
    assert {event.data.type for event in stored} == {"bytes"}
    for each in (store, conn.store(stream, DECIDER), conn.store(stream, DECIDER, cache=0)):
        loaded = await each.load("a")
        assert (loaded.version, loaded.state) == (3, ["hello", "world", "again"])
        history = await each.history("a")
        assert [(event.version, event.data.decode()) for event in history] == [(1, "hello"), (2, "world"), (3, "again")]
        result = await each.execute("a", "")
        assert (result.version, result.state) == (3, ["hello", "world", "again"])


async def test_execute_when_another_program_was_quicker_decides_on_decoded_events(
    connect: Connect, stream: str
) -> None:
    first, other = await connect(middleware=[Zlib()]), await connect(middleware=[Zlib()])
    store, others = first.store(stream, DECIDER), other.store(stream, DECIDER)
    await store.execute("a", "one")
    await others.execute("a", "two")
    result = await store.execute("a", "three", command_id="c")
    assert (result.version, result.state) == (3, ["one", "two", "three"])
    again = await others.execute("a", "three", command_id="c")
    assert [receipt.sequence for receipt in again.receipts] == [receipt.sequence for receipt in result.receipts]


async def test_conflict_when_data_is_encoded_has_the_decoded_events(connect: Connect, stream: str) -> None:
    conn = await connect(middleware=[Zlib()])
    store, others = conn.store(stream, DECIDER), conn.store(stream, DECIDER)
    await store.execute("a", "one")
    await others.execute("a", "two")
    with pytest.raises(eda.VersionConflict) as caught:
        await store.append("a", [eda.Event(type="said", data=eda.String("no"))], expected=1)
    assert [event.data.decode() for event in caught.value.events] == ["two"]


async def test_execute_when_it_decides_again_runs_the_hooks_again(connect: Connect, stream: str) -> None:
    seen: list[str] = []

    async def note(event: eda.Event, call_next: eda.PublishNext) -> Any:
        try:
            receipt = await call_next(event)
        except Exception as error:
            seen.append(f"{event.data.decode()}: {type(error).__name__}")
            raise ValueError("translated") from error
        seen.append(f"{event.data.decode()}: {str(receipt) == event.id}")

    conn, plain = await connect(middleware=[PublishHook(note)]), await connect()
    store = conn.store(stream, DECIDER)
    await store.execute("a", "one")
    await plain.store(stream, DECIDER).execute("a", "two")
    assert (await store.execute("a", "three")).state == ["one", "two", "three"]
    assert seen == ["one: True", "three: VersionConflict", "three: True"]


async def test_append_when_a_hook_refuses_stores_nothing(connect: Connect, stream: str) -> None:
    async def refuse(event: eda.Event, call_next: eda.PublishNext) -> None:
        if event.data.decode() == "secret":
            raise PermissionError("not this word")
        await call_next(event)

    conn = await connect(middleware=[PublishHook(refuse)])
    store = conn.store(stream, DECIDER)
    await store.execute("a", "one")
    for _ in range(2):
        with pytest.raises(PermissionError):
            await store.execute("a", "two secret")
    loaded = await store.load("a")
    assert (loaded.version, loaded.state) == (1, ["one"])


async def test_append_when_a_hook_raises_afterwards_says_that_it_is_stored(connect: Connect, stream: str) -> None:
    async def fail(event: eda.Event, call_next: eda.PublishNext) -> None:
        await call_next(event)
        raise OSError("the audit's disk is full")

    conn = await connect(middleware=[PublishHook(fail)])
    store = conn.store(stream, DECIDER)
    with pytest.raises(OSError, match="disk is full") as caught:
        await store.execute("a", "one", command_id="c")
    assert any("was published before PublishHook.publish raised this" in note for note in caught.value.__notes__)
    assert (await store.load("a")).state == ["one"]
    assert (await store.execute("a", "one", command_id="c")).version == 1


async def test_load_when_a_hook_fails_raises_its_error(connect: Connect, stream: str) -> None:
    class Lost(eda.Middleware):
        async def load(self, event: eda.Event) -> eda.Event:
            raise PermissionError("no key")

    plain, conn = await connect(), await connect(middleware=[Lost()])
    await plain.store(stream, DECIDER).execute("a", "one")
    store = conn.store(stream, DECIDER)
    for call in (store.load, store.history):
        with pytest.raises(PermissionError, match="no key"):
            await call("a")


async def test_forget_when_there_is_middleware_forgets(connect: Connect, stream: str) -> None:
    conn = await connect(middleware=[Zlib()])
    store = conn.store(stream, DECIDER)
    await store.execute("a", "one")
    await store.forget("a")
    with pytest.raises(eda.AggregateForgotten):
        await conn.store(stream, DECIDER).load("a")


async def test_handler_when_a_store_has_encoded_gets_decoded_events_with_versions(
    connect: Connect, stream: str
) -> None:
    conn = await connect(middleware=[Zlib()])
    await conn.store(stream, DECIDER).execute("a", "one two")
    got: list[tuple[int, str]] = []

    def handle(event: eda.Event) -> None:
        got.append((event.version, event.data.decode()))

    async with conn.subscribe(stream, handle, serial=True, backfill=True):
        await until(lambda: len(got) == 2)
    assert got == [(1, "one"), (2, "two")]


async def test_store_when_middleware_could_not_undo_its_changes_is_refused(connect: Connect, stream: str) -> None:
    class Sealed(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            await call_next(event)

        async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
            await call_next(event)

    conn = await connect(middleware=[Sealed()])
    with pytest.raises(eda.ConfigError, match="Sealed has the hooks publish and handle but not load"):
        conn.store(stream, DECIDER)


async def test_snapshot_when_layers_encode_the_data_is_encoded_and_read_back(connect: Connect, stream: str) -> None:
    conn, plain = await connect(middleware=[Zlib()]), await connect()
    async with conn.store(stream, DECIDER, snapshot_every=2) as store:
        await store.execute("a", "hello hello hello hello")
    async with plain.events(f"{stream}-snapshots", backfill=True) as snapshots:
        snapshot = await anext(snapshots)
    assert snapshot.type == "eda.snapshot"
    assert b"hello" not in snapshot.data.encode()
    loaded = await conn.store(stream, DECIDER, snapshot_every=2).load("a")
    assert (loaded.state, loaded.version, loaded.events) == (["hello"] * 4, 4, [])
