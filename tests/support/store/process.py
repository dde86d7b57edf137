"""Members of an event store's fault tests: processes that execute commands until they are killed or told to end.

A nursery (`faults.nursery`) forks them. It has also imported what eda imports only when it is used, because this
takes a quarter of a second. A member journals (`attempts.Journal`) all that it asks; SIGTERM has it close.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

import eda
import eda.connecting
import eda.store.assembly
import eda.subscribing.subscription
from support.faults.nursery import nurse
from support.faults.patience import ask_again_after
from support.store.accounts import TYPES, Account, Command, Refusal, after, chain_of, move, moved, type_of
from support.store.attempts import UNKNOWN, Journal, Request


@dataclass
class Orders:
    """What a member is to do.

    `stem`: begins the ids of its commands; two members of one stem and seed execute the same commands. `again`: the
    requests to repeat first. `manager`: a stream whose events are the commands; the member is a process manager then.
    `delay_s`: the longest pause between two requests of a worker. `patience_s`: how long it waits for an answer before
    it asks again; 0: as long as eda does.
    """

    url: str | list[str]
    member: str
    journal: str
    stream: str = "accounts"
    stem: str = ""
    seed: int = 0
    n_workers: int = 3
    n_aggregates: int = 50
    delay_s: float = 0.06
    patience_s: float = 0.0
    how: Sequence[str] = ("execute", "execute", "execute", "append", "load", "history")
    store: dict[str, Any] = field(default_factory=dict)
    types: bool = False
    again: list[dict[str, Any]] = field(default_factory=list)
    only_again: bool = False
    manager: str = ""
    broken: str = ""


def decider(*, types: bool = False) -> eda.Decider[Account, Command]:
    """Return the decider of the accounts."""

    def evolve(state: Account, event: eda.Event) -> Account:
        return after(state, event.id, event.data.decode())

    def decide(state: Account, command: Command) -> list[eda.Event]:
        return events_of(move(state, command))

    async def decide_later(state: Account, command: Command) -> list[eda.Event]:
        await asyncio.sleep(0)
        return decide(state, command)

    if types:
        return eda.Decider(Account(), evolve, decide_later, types=TYPES, state=Account)
    return eda.Decider(Account(), evolve, decide, state=Account)


def events_of(data: list[dict[str, Any]]) -> list[eda.Event]:
    return [eda.Event(type=type_of(each), data=eda.JSON(each)) for each in data]


class Member:
    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.journal = Journal(Path(orders.journal))
        self.chance = random.Random(f"{orders.seed} {orders.member}")
        self.n_attempts = 0
        self.n_commands = 0
        self.stop = asyncio.Event()

    def note(self, what: str, **more: Any) -> None:
        self.journal.note(self.orders.member, what, **more)

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop.set)
        conn = await self.connected()
        try:
            store = conn.store(self.orders.stream, decider(types=self.orders.types), **self.orders.store)
            self.note("open")
            if self.orders.manager:
                await self.manage(conn, store)
            else:
                await self.work(store)
            self.note("closing")
        finally:
            await conn.close()
        self.note("closed")

    async def connected(self) -> eda.Conn:
        while True:
            try:
                return await eda.connect(self.orders.url, client=self.orders.member)
            except eda.EdaError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.05)

    async def work(self, store: Any) -> None:
        for request in self.orders.again:
            # Until it is known what became of it; the server may be away for a moment.
            while await self.attempt(store, Request(**request)) == UNKNOWN and not self.stop.is_set():
                await self.pause(0.1)
        if not self.orders.only_again:
            await asyncio.gather(*(self.worker(store) for _ in range(self.orders.n_workers)))

    async def worker(self, store: Any) -> None:
        while not self.stop.is_set():
            await self.attempt(store, await self.next_request(store))
            await self.pause(self.chance.random() * self.orders.delay_s)

    async def pause(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), pause_s)

    # --- a process manager -------------------------------------------------------------------------------------------

    async def manage(self, conn: eda.Conn, store: Any) -> None:
        """Execute what each event of the stream asks for, on two accounts, under the event's id."""

        async def handle(event: eda.Event) -> None:
            for aggregate in event.data.decode()["aggregates"]:
                request = Request("execute", aggregate, event.id, amount=1, n=1 + event.sequence % 2)
                outcome = await self.attempt(store, request)
                if outcome != "done":
                    raise RuntimeError(f"not done: {outcome}")

        options: dict[str, Any] = {"name": "manager", "durable": True, "backfill": True, "concurrency": 4}
        options["lease_s"] = 1.5  # what a killed member had begun is delivered to another one after this time
        retry = eda.Retry(max_attempts=None)
        subscription = await conn.subscribe(self.orders.manager, handle, retry=retry, **options)
        await self.stop.wait()
        await subscription.close()

    # --- requests ----------------------------------------------------------------------------------------------------

    async def next_request(self, store: Any) -> Request:
        orders = self.orders
        self.n_commands += 1
        command_id = f"{orders.stem or orders.member}-{self.n_commands}"
        chance = random.Random(f"{orders.seed} {command_id}")  # the same command in each member of the stem
        # Half of all requests are for one account in ten, so that processes meet there.
        n = orders.n_aggregates if chance.random() < 0.5 else max(1, orders.n_aggregates // 10)
        aggregate = f"a{chance.randrange(n)}"
        how = chance.choice(orders.how)
        kind = chance.choice(("move",) * 8 + ("refuse", "nothing"))
        amount = chance.choice((1, 2, 3, 5, -1, -2, -4, -30))
        request = Request(how, aggregate, command_id, kind, amount, chance.choice((1, 1, 1, 2, 3, 5)))
        if how == "append":
            expected = await self.expectation(store, aggregate, chance.choice(EXPECTATIONS))
            return Request(how, aggregate, command_id, "move", abs(amount), request.n, expected)
        return request

    async def expectation(self, store: Any, aggregate: str, expected: str) -> int | str:
        if expected not in ("version", "stale"):
            return expected
        try:
            version: int = (await store.load(aggregate)).version
        except eda.EdaError:
            return "any"
        return max(0, version - (expected == "stale"))

    # --- attempts ----------------------------------------------------------------------------------------------------

    async def attempt(self, store: Any, request: Request) -> str:
        """Ask the store, with a line in the journal before and after. Returns the outcome."""
        self.n_attempts += 1
        number = self.n_attempts
        self.note("begin", attempt=number, request=asdict(request))
        said: dict[str, Any] = {}
        try:
            said = await getattr(self, request.how)(store, request)
            outcome = "done"
        except eda.VersionConflict as error:
            outcome = "conflict"
            said = {"expected": error.expected, "actual": error.actual, "events": summary(error.events)}
        except Refusal as error:
            outcome = "refused" if str(error) == request.id else "error"
        except eda.ConfigError as error:
            outcome, said = "config", {"text": str(error)}
        except eda.NotSupported as error:
            outcome, said = "unsupported", {"text": str(error)}
        except eda.AggregateForgotten:
            outcome = "forgotten"
        except eda.HistoryIncomplete as error:
            outcome, said = "incomplete", {"text": str(error)}
        except (eda.Timeout, eda.ServerError, eda.Closed) as error:
            outcome, said = UNKNOWN, {"text": str(error)}
        except Exception:
            outcome, said = "error", {"text": traceback.format_exc()}
        self.note("end", attempt=number, outcome=outcome, said=said)
        return outcome

    async def execute(self, store: Any, request: Request) -> dict[str, Any]:
        command = Command(request.id, request.aggregate, request.kind, request.amount, request.n)
        return appended(await store.execute(request.aggregate, command, command_id=request.id))

    async def append(self, store: Any, request: Request) -> dict[str, Any]:
        command = Command(request.id, request.aggregate, request.kind, request.amount, request.n)
        seen = request.expected if isinstance(request.expected, int) else None
        events = events_of(moved(command, seen))
        return appended(await store.append(request.aggregate, events, expected=request.expected, command_id=request.id))

    async def load(self, store: Any, request: Request) -> dict[str, Any]:
        loaded = await store.load(request.aggregate)
        return {
            "found": loaded.version,
            "sequence": loaded.position[1],
            "state": asdict(loaded.state),
            "events": summary(loaded.events),
        }

    async def history(self, store: Any, request: Request) -> dict[str, Any]:
        events = await store.history(request.aggregate)
        return {"found": events[-1].version if events else 0, "events": summary(events)}

    async def forget(self, store: Any, request: Request) -> dict[str, Any]:
        await store.forget(request.aggregate)
        return {}


EXPECTATIONS = ("version", "version", "version", "stale", "any", "new", "exists")


def appended(result: Any) -> dict[str, Any]:
    said = {
        "version": result.version,
        "ids": [receipt.id for receipt in result.receipts],
        "sequences": [receipt.sequence for receipt in result.receipts],
    }
    return said | ({} if result.state is None else {"state": asdict(result.state)})


def summary(events: Sequence[eda.Event]) -> dict[str, Any]:
    """Return what identifies a slice of a history."""
    first = events[0].version if events else 0
    contiguous = [event.version for event in events] == list(range(first, first + len(events)))
    chain = chain_of(event.id for event in events)
    return {"first": first, "n": len(events), "contiguous": contiguous, "chain": chain}


# --- processes -------------------------------------------------------------------------------------------------------


def run_member(given: dict[str, Any]) -> None:
    orders = Orders(**given)
    with open(f"{orders.journal}-{orders.member}.log", "ab", buffering=0) as log:
        os.dup2(log.fileno(), 2)
    if orders.patience_s:
        ask_again_after(orders.patience_s, pytest.MonkeyPatch())
    member = Member(orders)
    try:
        asyncio.run(member.run())
    except BaseException:
        member.note("crashed", text=traceback.format_exc())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    nurse(run_member)
