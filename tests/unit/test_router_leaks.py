"""A router gives back what it took: through each path many times, errors included."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

import eda
from eda._codec import decode_event, encode_event
from leaks import MAX_BLOCKS, MAX_RSS, growth

N = 20_000


@eda.payload("leaks-paid")
class Paid(msgspec.Struct):
    n: int


@eda.payload("leaks-shipped")
class Shipped(msgspec.Struct):
    n: int


ROUTER = eda.Router(unknown="raw")
STRICT = eda.Router()


@ROUTER.on(Paid)
@STRICT.on
def paid(order: Paid, event: eda.Event) -> None:
    if order.n < 0:
        raise KeyError(order.n)


@ROUTER.on
async def shipped(orders: list[Shipped], events: list[eda.Event]) -> None:
    if orders[0].n < 0:
        raise eda.PartialFailure({events[0]: KeyError(orders[0].n)})


@ROUTER.otherwise
async def others(event: eda.Event) -> None:
    """Handle."""


def bytes_of(payload: object = None, **fields: Any) -> bytes:
    return encode_event(eda.Event(data=payload, id="e1", **fields), "e1")  # type: ignore[arg-type]


GOOD, BAD = bytes_of(Paid(1)), bytes_of(Paid(-1))
BROKEN = bytes_of(eda.JSON({"n": "x"}), type="leaks-paid")
UNKNOWN = bytes_of(type="leaks-unknown")
LIST, BAD_LIST = bytes_of(Shipped(1)), bytes_of(Shipped(-1))


def run(coroutine: Any) -> None:
    """Run a coroutine that does not suspend."""
    running: Coroutine[Any, Any, Any] = coroutine
    try:
        running.send(None)
    except (StopIteration, eda.PartialFailure):
        return
    raise AssertionError("it waits for something")


def refused(*envelopes: bytes, router: eda.Router = ROUTER) -> None:
    try:
        router(decode_event(envelopes[0]))
    except (KeyError, eda.CodecError):
        return
    raise AssertionError("nothing was raised")


def batch(*envelopes: bytes) -> None:
    run(ROUTER([decode_event(each) for each in envelopes]))


def made() -> None:
    router = eda.Router(unknown="raw")

    @router.on(Paid)
    def paid(order: Paid) -> eda.Router:
        return router  # a cycle

    @router.otherwise
    def others(event: eda.Event) -> None:
        """Handle."""

    router(decode_event(GOOD))


PATHS: dict[str, Callable[[], Any]] = {
    "handled": lambda: ROUTER(decode_event(GOOD)),
    "handled-by-a-coroutine": lambda: run(ROUTER(decode_event(UNKNOWN))),
    "failed": lambda: refused(BAD),
    "undecodable": lambda: refused(BROKEN),
    "unknown": lambda: refused(UNKNOWN, router=STRICT),
    "batch": lambda: batch(GOOD, GOOD, LIST, LIST, UNKNOWN, LIST),
    "batch-failed": lambda: batch(BAD, BROKEN, GOOD, BAD_LIST, LIST),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_memory_when_a_path_is_taken_many_times_does_not_grow(path: Callable[[], Any]) -> None:
    blocks, tracked, size = growth(path, N, shared=(ROUTER, STRICT, GOOD, BAD, BROKEN, UNKNOWN, LIST, BAD_LIST))
    assert blocks < MAX_BLOCKS
    assert tracked < MAX_BLOCKS
    assert size < MAX_RSS


def test_memory_when_a_router_refers_to_itself_is_given_back() -> None:
    assert growth(made, 2000)[0] < MAX_BLOCKS
