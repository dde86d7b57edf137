"""A member of a subscription, in a process of its own: journals what it handles, and dies or resists as it is told.

It reads what to do, as JSON, from the environment variable EDA_TEST_MEMBER (the fields of `Orders` below), and appends
to the journal, each line in one write: "member what place attempt ns", `ns` being CLOCK_MONOTONIC, the same for all
processes of a machine. `what` is begin, then end, failed, cancelled or killed; storing, before a dead letter is stored;
and open, closing, closed, with place 0. SIGTERM has it close.

The place of an event is its sequence, or "7.3" in a pack. Orders name events by their places.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import eda
from eda._pack import place_of
from eda.dead_letters.store import DeadLetters
from support.middleware.hooks import Base64, Zlib


@dataclass
class Orders:
    """What a member is to do."""

    url: str
    member: str
    stream: str
    journal: str
    options: dict[str, Any] = field(default_factory=dict)
    retry: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)  # "module.NAME": value
    sleep_s: float = 0.0  # in every handler
    slow: dict[str, float] = field(default_factory=dict)  # place: sleep_s, in its first attempt
    fail_every: int = 0  # each sequence that this divides fails
    fail_at: list[str] = field(default_factory=list)  # the places of events that fail
    fail_times: int = 1  # so often
    kill_at: int | str = 0  # the place of the event that kills the process
    misfit: int | str = 0  # the place of the event whose payload can't be decoded
    kill_storing: str = ""  # when a dead letter kills the process: "before" it is stored, "during" this, or "after"
    ignore_cancellation: bool = False
    layers: bool = False  # whether middleware decodes the events
    kill_after: int | str = 0  # the place of the event that kills the process in a hook, after the handler


class Dies(eda.Middleware):
    def __init__(self, place: int | str) -> None:
        self.place = str(place)

    async def handle(self, event: eda.Event, call_next: eda.HandleNext) -> None:
        event.data.decode()
        await call_next(event)
        if place_of(event) == self.place:
            os.kill(os.getpid(), signal.SIGKILL)


class Member:
    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.journal = os.open(orders.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, place: str = "0", attempt: int = 0) -> None:
        line = f"{self.orders.member} {what} {place} {attempt} {time.monotonic_ns()}\n"
        os.write(self.journal, line.encode())

    async def handle(self, event: eda.Event) -> None:
        place = (place_of(event), event.attempt)
        self.note("begin", *place)
        try:
            await self.work(event)
        except asyncio.CancelledError:
            self.note("cancelled", *place)
            raise
        except Exception:
            self.note("failed", *place)
            raise
        self.note("end", *place)

    async def handle_list(self, events: list[eda.Event]) -> None:
        for event in events:
            await self.handle(event)

    async def work(self, event: eda.Event) -> None:
        orders, place = self.orders, place_of(event)
        sleep_s = orders.slow.get(place, orders.sleep_s) if event.attempt == 1 else orders.sleep_s
        until = time.monotonic() + sleep_s
        while time.monotonic() < until:
            try:
                await asyncio.sleep(until - time.monotonic())
            except asyncio.CancelledError:
                if not orders.ignore_cancellation:
                    raise
        if place == str(orders.kill_at):
            self.note("killed", place, event.attempt)
            os.kill(os.getpid(), signal.SIGKILL)
        if place == str(orders.misfit):
            raise eda.DecodeError("json", "as it was told", event_id=event.id)
        fails = place in orders.fail_at or (orders.fail_every and event.sequence % orders.fail_every == 0)
        if fails and event.attempt <= orders.fail_times:
            raise ValueError("as it was told")

    async def store(self, letters: DeadLetters, to: str, **letter: Any) -> None:
        """Store a dead letter, in place of `DeadLetters.store`."""
        when = self.orders.kill_storing
        self.note("storing", place_of_letter(letter), letter["attempts"])
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        elif when == "during":
            # The letter is written in the loop's next turn.
            asyncio.get_running_loop().call_later(0.0005, os.kill, os.getpid(), signal.SIGKILL)
        await _store(letters, to, **letter)
        if when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    async def run(self) -> None:
        orders = self.orders
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        middleware = [Dies(orders.kill_after), Zlib(), Base64()] if orders.layers else []
        async with eda.connect(orders.url, client=orders.member, middleware=middleware) as conn:
            options = orders.options | {"retry": eda.Retry(**orders.retry)}
            handle = self.handle_list if options.get("batch") else self.handle
            subscription = await conn.subscribe(orders.stream, handle, **options)
            self.note("open")
            waiting = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(subscription.wait())
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self.note("closing")
            await subscription.close()
            self.note("closed")
            for each in waiting:
                each.cancel()
            await asyncio.wait(waiting)


def place_of_letter(letter: dict[str, Any]) -> str:
    """Return the place of the event that becomes a dead letter."""
    index = letter.get("index")
    return str(letter["sequence"]) if index is None else f"{letter['sequence']}.{index}"


_store = DeadLetters.store


def main() -> None:
    orders = Orders(**json.loads(os.environ["EDA_TEST_MEMBER"]))
    for path, value in orders.constants.items():
        module, _, name = path.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, name), path
        setattr(found, name, value)
    member = Member(orders)
    DeadLetters.store = lambda letters, to, **letter: member.store(letters, to, **letter)  # type: ignore[method-assign]
    asyncio.run(member.run())


if __name__ == "__main__":
    sys.exit(main())
