"""The event store behind a proxy that loses requests and answers at every point of an append, one after the other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import eda
import eda.transport.nats_client
from helpers import until
from support.faults.patience import ask_again_after
from support.faults.scene import scaled
from support.store.attempts import UNKNOWN, Request
from support.store.contents import read_contents
from support.store.evidence import assert_promise
from support.store.process import Member, Orders, decider
from support.transport.faulty_proxy import DOWN, UP, FaultyProxy, Way

Report = Callable[[Mapping[str, object]], None]
STREAM = "accounts"

# What is asked by turns. Several events are an atomic batch.
REQUESTS: list[dict[str, Any]] = [
    {"how": "execute"},
    {"how": "execute", "n": 3},
    {"how": "append", "n": 2},
    {"how": "append", "expected": "any"},
    {"how": "load"},
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let eda ask again 0.1 s after a lost request or answer, rather than after 0.75 to 5 s."""
    ask_again_after(0.1, monkeypatch)
    monkeypatch.setattr(eda.transport.nats_client, "BACKOFF_FIRST_S", 0.01)


class Sides:
    """Two members in this process: one behind the proxy, with a warm and a cold store, and one beside it."""

    def __init__(self, folder: Path, url: str, proxied_url: str) -> None:
        self.urls = url, proxied_url
        orders: dict[str, Any] = {"journal": str(folder / "journal"), "stream": STREAM}
        self.behind = Member(Orders(url=proxied_url, member="behind", **orders))
        self.beside = Member(Orders(url=url, member="beside", **orders))
        self.n = 0

    async def __aenter__(self) -> Sides:
        url, proxied_url = self.urls
        self.conn = await eda.connect(url)
        await self.conn.streams.create(STREAM, eda.StreamOptions(store=True, dedup_window_s=8.0))
        self.proxied_conn = await eda.connect(proxied_url)
        self.stores = [
            self.proxied_conn.store(STREAM, decider()),
            self.proxied_conn.store(STREAM, decider(types=True), snapshot_every=7, cache=0),
        ]
        self.other = self.conn.store(STREAM, decider())
        for store in (*self.stores, self.other):
            await store.load("a0")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxied_conn.close()
        await self.conn.close()

    async def turn(self, harm: Callable[[], Awaitable[None]], aggregate: str = "") -> None:
        """Ask for one thing while harm is done; then what the outcome was, if it is unknown."""
        self.n += 1
        store = self.stores[self.n // len(REQUESTS) % 2]
        aggregate = aggregate or f"a{self.n % 3}"
        given = {"aggregate": aggregate, "id": f"c{self.n}"} | REQUESTS[self.n % len(REQUESTS)]
        if given["how"] == "append" and "expected" not in given:
            given["expected"] = (await self.other.load(aggregate)).version
        await harm()
        outcome = await self.behind.attempt(store, Request(**given))
        if given["how"] != "load":
            # The same command by another process, and again by this one: the result is the same.
            if outcome == UNKNOWN or self.n % 4 == 0:
                await self.beside.attempt(self.other, Request(**given))
            if outcome == UNKNOWN or self.n % 8 == 0:
                await self.behind.attempt(store, Request(**given))
        if self.n % 3 == 0:  # so that what is cached is old, and the next append conflicts
            await self.beside.attempt(self.other, Request("execute", aggregate, f"d{self.n}", n=2))

    async def examine(self) -> dict[str, int]:
        return assert_promise(await read_contents(self.urls[0], STREAM), self.beside.journal.attempts())


@pytest.mark.parametrize("way", [UP, DOWN])
async def test_commands_when_the_connection_is_cut_at_every_byte_are_applied_once(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, tmp_path: Path, way: Way, report: Report
) -> None:
    """Cut in the request, before it, or in the answer: the server may have stored the events or not."""
    step = scaled(20, 1)

    async with Sides(tmp_path, own_server.url, proxy.url(own_server.url)) as sides:
        for at in range(1, 1000 if way == UP else 700, step):

            async def cut(at: int = at) -> None:
                await until(lambda: proxy.n_open > 0)
                proxy.cut_after(at, way)

            await sides.turn(cut)
        report(await sides.examine() | {"cuts": proxy.n_cut})
    assert proxy.n_cut >= 20


async def test_commands_when_single_answers_are_lost_are_applied_once(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, tmp_path: Path, chance: random.Random, report: Report
) -> None:
    """The connection stands, but one answer of the server does not arrive: an acknowledgement, or a part of a read."""
    n = scaled(20, 100)
    async with Sides(tmp_path, own_server.url, proxy.url(own_server.url)) as sides:
        for _ in range(n):
            left = chance.randrange(3)

            def is_lost(message: bytes) -> bool:
                nonlocal left
                if message.startswith((b"MSG ", b"HMSG ")):
                    left -= 1
                    return left == -1
                return False

            async def lose() -> None:
                proxy.drop_if = is_lost

            await sides.turn(lose)
        proxy.drop_if = None
        report(await sides.examine() | {"lost": proxy.n_dropped})
    assert proxy.n_dropped >= n // 2


async def test_commands_when_the_answer_is_held_until_others_have_appended_are_applied_once(
    own_server: eda.EmbeddedServer, proxy: FaultyProxy, tmp_path: Path, report: Report
) -> None:
    """The answer is held, then the connection is cut: meanwhile, another process has appended after the events."""
    n = scaled(20, 100)
    async with Sides(tmp_path, own_server.url, proxy.url(own_server.url)) as sides:
        for number in range(n):
            aggregate = f"a{number % 3}"

            def is_lost(message: bytes) -> bool:
                # A stream's answer to what was published. The connection is cut as soon as others have appended.
                return message.startswith((b"MSG ", b"HMSG ")) and b'"stream":"accounts","seq":' in message.replace(
                    b" ", b""
                )

            async def lose() -> None:
                proxy.drop_if = is_lost

            n_dropped = proxy.n_dropped
            turn = asyncio.create_task(sides.turn(lose, aggregate))
            await until(lambda n=n_dropped, turn=turn: proxy.n_dropped > n or turn.done())
            await sides.beside.attempt(sides.other, Request("execute", aggregate, f"e{number}"))
            proxy.drop_if = None
            proxy.cut()
            await turn
        report(await sides.examine() | {"lost": proxy.n_dropped, "cuts": proxy.n_cut})
    assert proxy.n_dropped
