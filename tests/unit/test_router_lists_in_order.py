"""eda.Router with serial lists: no handler is called after the first failure, and later events are given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

import eda
from eda._codec import decode_event, encode_event
from eda._router import routed
from eda.handlers import GivenBack, errors_in

IN_ORDER: dict[str, Any] = {"batch": 10, "serial": True}


@eda.payload("in-order-one")
class One(msgspec.Struct):
    number: int


@eda.payload("in-order-two")
class Two(msgspec.Struct):
    number: int


UNDECODABLE = eda.Event(id="bad", type="in-order-one", data=eda.Bytes(b"\xff"))


class Scene:
    """A router with a handler for `One` and a list handler for `Two`; both fail for the numbers in `bad`."""

    def __init__(self, *bad: int, **options: Any) -> None:
        self.seen: list[object] = []
        self.bad = set(bad)
        router = eda.Router(unknown="skip")

        @router.on(One)
        async def one(payload: One) -> None:
            await asyncio.sleep(0)
            self.seen.append(payload.number)
            if payload.number in self.bad:
                raise ValueError(payload.number)

        @router.on(Two)
        def many(payloads: list[Two], events: list[eda.Event]) -> None:
            self.seen.append([each.number for each in payloads])
            failed = {
                event: ValueError(each.number)
                for each, event in zip(payloads, events, strict=True)
                if each.number in self.bad
            }
            if failed:
                raise eda.PartialFailure(failed)

        handler, _ = routed(router, eda.SubscriptionOptions(**(options or IN_ORDER)))
        self.handler: Callable[[list[eda.Event]], Coroutine[Any, Any, None]] = handler  # type: ignore[assignment]

    async def outcomes(self, *events: eda.Event) -> list[str]:
        """Handle a list; returns the type of each event's error, or an empty text."""
        try:
            await self.handler(list(events))
        except eda.PartialFailure as failure:
            return ["" if each is None else type(each).__name__ for each in errors_in(failure, events)]
        return [""] * len(events)


def events_of(kinds: str) -> list[eda.Event]:
    """Return events by letters: 1 for the handler of single events, 2 for that of lists, x can't be decoded."""
    found = []
    for number, kind in enumerate(kinds, 1):
        data = {"1": One(number), "2": Two(number)}.get(kind)
        event = UNDECODABLE if data is None else eda.Event(id=f"id-{number}", data=data)
        found.append(decode_event(encode_event(event)))  # as from a subscription
    return found


FAILED, UNREAD, BACK = "ValueError", "DecodeError", GivenBack.__name__


@pytest.mark.parametrize(
    ("kinds", "bad", "seen", "outcomes"),
    [
        ("111", [], [1, 2, 3], ["", "", ""]),
        ("111", [2], [1, 2], ["", FAILED, BACK]),
        ("111", [1, 3], [1], [FAILED, BACK, BACK]),
        ("2222", [2], [[1, 2, 3, 4]], ["", FAILED, "", ""]),
        ("2211", [1], [[1, 2]], [FAILED, "", BACK, BACK]),
        ("2211", [2, 4], [[1, 2]], ["", FAILED, BACK, BACK]),
        ("2212", [3], [[1, 2], 3], ["", "", FAILED, BACK]),
        ("1x1", [], [1], ["", UNREAD, BACK]),
        ("22x2", [], [[1, 2]], ["", "", UNREAD, BACK]),
        ("22x2", [2], [[1, 2]], ["", FAILED, BACK, BACK]),
        ("22x", [1, 2], [[1, 2]], [FAILED, FAILED, BACK]),
    ],
)
async def test_router_when_lists_are_in_order_stops_at_the_first_failure(
    kinds: str, bad: list[int], seen: list[object], outcomes: list[str]
) -> None:
    scene = Scene(*bad)
    assert await scene.outcomes(*events_of(kinds)) == outcomes
    assert scene.seen == seen


async def test_router_when_lists_are_not_in_order_handles_the_rest() -> None:
    scene = Scene(1, batch=10)
    assert await scene.outcomes(*events_of("1212")) == [FAILED, "", "", ""]
    assert scene.seen == [1, [2], 3, [4]]


async def test_router_when_called_by_a_test_handles_the_rest() -> None:
    seen: list[int] = []
    router = eda.Router()

    @router.on(One)
    def one(payload: One) -> None:
        seen.append(payload.number)
        raise ValueError

    with pytest.raises(eda.PartialFailure):
        await router(events_of("11"))
    assert seen == [1, 2]
