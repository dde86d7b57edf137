"""The hooks around an event store: of appended events, and of events that the store has read."""

from __future__ import annotations

from typing import Any

import pytest

import eda
from eda._codec import encode_event, stored_event
from eda.middleware.around_store import StoreHooks, check_can_load
from support.middleware.hooks import Body, PublishHook


class LoadHook(eda.Middleware):
    """Middleware whose hook `load` is a function."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def load(self, event: eda.Event) -> eda.Event:
        return self._body(event)  # type: ignore[no-any-return]


class Storing:
    """Takes the events of an append."""

    def __init__(self, error: Exception | None = None) -> None:
        self.events: list[eda.Event] = []
        self._error = error

    async def __call__(self, events: list[eda.Event]) -> list[eda.Receipt]:
        if self._error is not None:
            raise self._error
        self.events = events
        return [eda.Receipt(event.id, "orders", at) for at, event in enumerate(events, 1)]


def stored(number: int = 1, **fields: Any) -> eda.Event:
    event = eda.Event(**{"id": f"i{number}", "type": "order-paid", "aggregate": "4711"} | fields)
    return stored_event(encode_event(event, client="c", now_ns=1, version=number), "orders", number, 5)


async def appended(body: Body, storing: Storing, *events: eda.Event) -> list[eda.Receipt]:
    return await StoreHooks([PublishHook(body)]).append("orders", events, storing)


async def test_append_when_hooks_change_the_data_stores_what_they_passed_on() -> None:
    async def shout(event: eda.Event, call_next: eda.PublishNext) -> None:
        assert (event.stream, event.id != "", call_next.publisher) == ("orders", True, None)
        receipt = await call_next(event.replace(data=eda.String(event.data.decode().upper())))
        assert str(receipt) == event.id

    storing = Storing()
    receipts = await appended(shout, storing, *(eda.Event(id=f"i{n}", data=eda.String("a")) for n in range(3)))
    assert [receipt.id for receipt in receipts] == ["i0", "i1", "i2"]
    assert [event.data.decode() for event in storing.events] == ["A", "A", "A"]


@pytest.mark.parametrize("field", ["id", "type", "aggregate"])
async def test_append_when_a_hook_changes_what_the_store_relies_on_stores_nothing(field: str) -> None:
    async def change(event: eda.Event, call_next: eda.PublishNext) -> None:
        await call_next(event.replace(**{field: "other"}))

    storing = Storing()
    with pytest.raises(eda.ConfigError, match=rf"PublishHook.publish can't change the {field} of an event") as caught:
        await appended(change, storing, eda.Event(id="i", type="t", aggregate="a"))
    assert caught.value.argument == "middleware"
    assert storing.events == []


async def test_append_when_a_hook_refuses_stores_nothing() -> None:
    async def refuse(event: eda.Event, call_next: eda.PublishNext) -> None:
        if event.id == "i1":
            raise PermissionError("not this one")
        await call_next(event)

    storing = Storing()
    with pytest.raises(PermissionError):
        await appended(refuse, storing, eda.Event(id="i0"), eda.Event(id="i1"))
    assert storing.events == []


async def test_append_when_a_hook_translates_a_conflict_raises_the_conflict() -> None:
    seen: list[BaseException] = []

    async def translate(event: eda.Event, call_next: eda.PublishNext) -> None:
        try:
            await call_next(event)
        except Exception as error:
            seen.append(error)
            raise RuntimeError("translated") from error

    conflict = eda.VersionConflict("orders", "4711", 1, 2)
    with pytest.raises(eda.VersionConflict) as caught:
        await appended(translate, Storing(conflict), eda.Event(id="i0"), eda.Event(id="i1"))
    assert caught.value is conflict
    assert seen == [conflict, conflict]


async def test_append_when_there_are_no_hooks_hands_the_very_events_over() -> None:
    storing, events = Storing(), [eda.Event(id="i")]
    await StoreHooks([eda.Middleware()]).append("orders", events, storing)
    assert storing.events[0] is events[0]


async def test_loaded_when_several_layers_are_there_undoes_the_last_first() -> None:
    hooks = StoreHooks([LoadHook(lambda e: add(e, "first")), LoadHook(lambda e: add(e, "last"))])
    events = await hooks.loaded([stored(1, data=eda.String("")), stored(2, data=eda.String(""))])
    assert [event.data.decode() for event in events] == [" last first", " last first"]
    assert [(event.version, event.sequence, event.id) for event in events] == [(1, 1, "i1"), (2, 2, "i2")]


def add(event: eda.Event, word: str) -> eda.Event:
    return event.replace(data=eda.String(f"{event.data.decode()} {word}"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda event: None, "LoadHook.load must return an eda.Event, not NoneType"),
        (lambda event: event.replace(id="other"), "LoadHook.load can't change the id of an event"),
        (lambda event: event.replace(type="other"), "LoadHook.load can't change the type of an event"),
        (lambda event: stored(9, id=event.id), "LoadHook.load can't change the version of an event"),
    ],
    ids=["none", "id", "type", "version"],
)
async def test_loaded_when_a_hook_returns_another_event_is_refused(body: Any, message: str) -> None:
    with pytest.raises(eda.ConfigError, match=message):
        await StoreHooks([LoadHook(body)]).loaded([stored()])


async def test_loaded_when_a_hook_raises_raises_this_and_names_the_event() -> None:
    def fail(event: eda.Event) -> eda.Event:
        raise ValueError("no key")

    with pytest.raises(ValueError, match="no key") as caught:
        await StoreHooks([LoadHook(fail)]).loaded([stored()])
    assert caught.value.__notes__ == ["LoadHook.load raised this for event i1 of aggregate '4711'"]


async def test_loaded_when_there_are_no_hooks_returns_the_very_events() -> None:
    event = stored()
    assert (await StoreHooks([]).loaded([event]))[0] is event


class Both(eda.Middleware):
    async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
        await call_next(event)

    async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
        await call_next(events)


class All(Both):
    async def load(self, event: eda.Event) -> eda.Event:
        return event


def test_store_when_events_would_be_folded_as_they_are_stored_is_refused() -> None:
    message = (
        "Both has the hooks publish and handle_batch but not load, so an event store would fold events as they are"
    )
    with pytest.raises(eda.ConfigError, match=message):
        check_can_load([All(), Both()])


def test_store_when_middleware_changes_nothing_that_is_read_is_accepted() -> None:
    async def pass_on(event: eda.Event, call_next: eda.PublishNext) -> None:
        await call_next(event)

    check_can_load([All(), PublishHook(pass_on), LoadHook(lambda event: event), eda.Middleware()])
