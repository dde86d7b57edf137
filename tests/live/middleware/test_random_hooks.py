"""Hooks and handlers that do anything at random: each event is handled or a dead letter, once, with its bytes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from nats.errors import Error as NatsError

import eda
from eda._codec import encode_event
from helpers import Admin, Connect, Logged, until
from support.dead_letters.letters import stored

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "shared": KEPT | {"concurrency": 3},
    "shared batch": KEPT | {"concurrency": 2, "batch": 7},
    "serial": KEPT | {"serial": True},
    "key": KEPT | {"key": "aggregate", "concurrency": 4},
    "exclusive batch": KEPT | {"exclusive": True, "batch": 5},
    "private batch": {"backfill": True, "batch": 6},
}
N = 150


@eda.payload("random-paid")
@dataclass
class Paid:
    amount: int


class AnyHook(eda.Middleware):
    """Fails before or after, and passes events on in every way: changed, reordered, in tasks, with a time-out."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        if self._dice.random() < 0.3:
            event = event.replace(id=f"{event.id}y")
        await self._pass_on(event, call_next)

    async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
        if self._dice.random() < 0.3:
            events = [event.replace(id=f"{event.id}y") for event in events]
        self._dice.shuffle(events)
        await self._pass_on(events, call_next)
        if self._dice.random() < 0.1:
            raise eda.PartialFailure({events[0]: ValueError("in part")})

    async def _pass_on(self, given: Any, call_next: Any) -> None:
        match self._dice.randrange(12):
            case 0:
                raise KeyError("before")
            case 1:
                await asyncio.create_task(call_next(given))
            case 2 | 3:
                self._left = asyncio.create_task(call_next(given))
                await asyncio.sleep(0)
            case 4:
                await asyncio.wait_for(call_next(given), self._dice.choice([0.001, 1]))
            case 5:
                async with asyncio.TaskGroup() as group:
                    group.create_task(call_next(given))
            case 6:
                await call_next(given)
                raise ValueError("after")
            case _:
                await call_next(given)


@pytest.mark.parametrize("kind", KINDS)
async def test_event_when_hooks_and_handlers_do_anything_is_handled_or_a_dead_letter(
    connect: Connect, stream: str, kind: str, admin: Admin, logged: Logged
) -> None:
    logged.allow(".")
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # some hooks never look at their tasks
    dice = random.Random(kind)
    await (await connect()).streams.create(stream)
    for number in range(N):
        amount = "thirty" if dice.random() < 0.1 else number
        event = eda.Event(id=f"i{number % 120}", type="random-paid", aggregate="a", data=eda.JSON({"amount": amount}))
        await admin.js.publish(f"{stream}.random-paid.a", encode_event(event))
    original = {number: each.payload for number, each in enumerate(await stored(admin, stream), 1)}
    handled: Counter[int] = Counter()
    order: list[int] = []

    async def handle(given: Any) -> None:
        if dice.random() < 0.3:
            await asyncio.sleep(dice.random() * 0.003)
        failures: dict[eda.Event, BaseException] = {}
        good: list[eda.Event] = []
        for event in given if isinstance(given, list) else [given]:
            try:
                event.payload()
                if dice.random() < 0.1:
                    raise dice.choice([RuntimeError("x"), eda.Reject("x"), asyncio.CancelledError()])
                good.append(event)
            except BaseException as error:
                if not isinstance(given, list) or dice.random() < 0.1:
                    raise
                failures[event] = error
        handled.update(event.sequence for event in good if event not in failures)
        order.extend(event.sequence for event in good)
        if failures:
            raise eda.PartialFailure(failures)

    conn = await connect(middleware=[AnyHook(dice), AnyHook(dice)])
    retry = eda.Retry(initial_s=0.002, factor=1, max_attempts=6)
    try:
        async with conn.subscribe(stream, handle, retry=retry, circuit=None, timeout_s=5, **KINDS[kind]) as sub:
            await until(lambda: sub.stats().handled + sub.stats().dead_lettered >= N, 30)
            assert sub.stats().handled + sub.stats().dead_lettered == N
        letters = await stored(admin, f"{stream}-dead")
    finally:
        with suppress(NatsError):
            await admin.js.delete_stream(f"{stream}-dead")
    dead = {int(letter.headers["Eda-Dead-Sequence"]): letter for letter in letters}
    assert len(dead) == len(letters)
    assert set(handled) | set(dead) == set(original)
    for sequence, letter in dead.items():
        assert letter.payload == original[sequence]
        assert letter.headers["Eda-Dead-Reason"] != "undecodable" or b"thirty" in original[sequence]
    assert not any(b"thirty" in original[sequence] for sequence in handled)
    if kind == "serial":
        firsts = list(dict.fromkeys(order))
        assert firsts == sorted(firsts)
