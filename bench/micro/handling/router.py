"""From bytes to a router's handler, beside an untyped handler of the same events and msgspec's decoding of their data.

The reference does both in one round: it hands each event to a handler that reads nothing, and decodes each payload with
msgspec. For shared subscriptions (the default) and ordered ones (`exclusive`), for each kind of handler and class.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

import eda
from eda._router import routed
from micro import Maker, Round
from micro.handling.dispatch import dispatched, frames_of

__all__ = ["CONTENDERS", "N_ROUTED", "PAYLOAD", "VARIANTS", "PaidDataclass", "PaidStruct", "make_event"]

N_ROUTED = 1000
PAYLOAD = (
    b'{"order":"4711","customer":"3292329","amount":19950,"currency":"EUR","items":["a-100","b-200"],"paid_by":"card",'
    b'"express":false}'
)
assert len(PAYLOAD) == 128


@eda.payload("bench-paid")
class PaidStruct(msgspec.Struct):
    order: str
    customer: str
    amount: int
    currency: str
    items: list[str]
    paid_by: str
    express: bool


@eda.payload("bench-paid-dataclass")
@dataclass
class PaidDataclass:
    order: str
    customer: str
    amount: int
    currency: str
    items: list[str]
    paid_by: str
    express: bool


Payload = type[PaidStruct] | type[PaidDataclass]


def make_event(n: int, cls: Payload = PaidStruct) -> eda.Event:
    declared = "bench-paid" if cls is PaidStruct else "bench-paid-dataclass"
    return eda.Event(type=declared, aggregate=f"order-{n % 10_000}", data=eda.Data.from_encoded("json", PAYLOAD))


async def handle(event: object) -> None:
    """Read nothing."""


def handle_plain(event: object) -> None:
    """Read nothing, as a plain function."""


def _data(cls: Payload) -> bytes:
    return frames_of([make_event(n, cls) for n in range(N_ROUTED)])


def typed(cls: Payload, handler: Callable[[object], Any], *, ordered: bool) -> Round:
    router = eda.Router()
    router.on(cls)(handler)
    function, _ = routed(router, eda.SubscriptionOptions())
    return dispatched(function, _data(cls), ordered=ordered)


def untyped(cls: Payload, handler: Callable[[object], Any], *, ordered: bool) -> Round:
    inner = dispatched(handler, _data(cls), ordered=ordered)
    decode = msgspec.json.Decoder(cls).decode
    payloads = [PAYLOAD] * N_ROUTED

    def run() -> Any:
        result = inner.run()
        deque(map(decode, payloads), maxlen=0)
        return result

    return Round(run, N_ROUTED)


# Names such as `struct`, `dataclass_plain_exclusive`, with the class, the handler, and whether the kind is ordered.
VARIANTS: dict[str, tuple[Payload, Callable[[object], Any], bool]] = {
    f"{shown}{called}{kind}": (cls, handler, ordered)
    for shown, cls in (("struct", PaidStruct), ("dataclass", PaidDataclass))
    for called, handler in (("", handle), ("_plain", handle_plain))
    for kind, ordered in (("", False), ("_exclusive", True))
}


def _maker(
    make: Callable[..., Round], cls: Payload, handler: Callable[[object], Any], ordered: bool
) -> Callable[[], Round]:
    return lambda: make(cls, handler, ordered=ordered)


CONTENDERS: dict[str, Maker] = {
    f"{prefix}_{name}": _maker(make, *variant)
    for name, variant in VARIANTS.items()
    for prefix, make in (("typed", typed), ("untyped_and_msgspec", untyped))
}
