"""Runs the cells: contenders in turn, every count checked, medians and spread in the end."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import nats

import eda
from suite.adapters import nats_c
from suite.cells import SHARES, Cell, Contender
from suite.checks import WrongCount, check
from suite.child import ChildFailed, measure
from suite.servers import Servers, options_of
from suite.work import Result, Task, data_of, event_of, quantile

__all__ = ["Suite"]

OVERHEAD_S = 0.9  # of a child: starting it, its connections, its stream, the check
LATENCY_S = 2.0
LATENCY_RATE_MIN = 50.0
SAMPLES_KEPT = 60

_numbers = itertools.count(1)


@dataclass
class Suite:
    """A run of cells. `minutes`: what it may take; each measurement gets its part; who is late gets one round."""

    servers: Servers
    cells: list[Cell]
    minutes: float
    quick: bool
    say: Callable[[str], None]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    late_at: float = 0.0

    async def run(self) -> None:
        """Fill `rows`, and `notices` with what was left out."""
        planned = [left for cell in self.cells if (left := self._possible(cell)).contenders]
        budget = self.minutes * 60
        n = 0
        for cell in planned:
            if cell.workload == "latency":
                n_levels = 1 + (len(SHARES) + 1) * cell.rounds
                budget -= n_levels * len(cell.contenders) * (LATENCY_S + OVERHEAD_S)
            elif cell.seconds:
                budget -= len(cell.contenders) * (cell.seconds + OVERHEAD_S)
            else:
                n += (cell.rounds + self._warms_up(cell)) * len(cell.contenders)
        seconds = 0.25 if self.quick else max(0.4, min(2.0, budget / max(n, 1) - OVERHEAD_S))
        self.say(f"{n} measurements of {seconds:.2f} s, and latency and memory")
        self.late_at = time.monotonic() + self.minutes * 60
        for number, cell in enumerate(planned, 1):
            self.say(f"[{number}/{len(planned)}] {cell.name}")
            await (self._latency if cell.workload == "latency" else self._cell)(cell, cell.seconds or seconds)

    def _warms_up(self, cell: Cell) -> bool:
        """Whether a short round goes before those that count: for the headlines; each process warms up anyway."""
        return cell.rounds > 2 and not self.quick

    def _rounds(self, cell: Cell) -> int:
        return 1 if time.monotonic() > self.late_at else cell.rounds

    def _possible(self, cell: Cell) -> Cell:
        """Return the cell with those contenders that can be run here."""
        if self.servers.lacks(cell.storage):
            self._notice(f"{cell.storage} is left out: it needs a server of the suite's own")
            return replace(cell, contenders=())
        left = []
        for contender in cell.contenders:
            if contender.adapter == "nats_c" and nats_c.version() is None:
                self._notice("nats.c is left out: no C compiler, or no libnats-dev (apt install libnats-dev)")
            elif contender.adapter == "faststream" and find_spec("faststream") is None:
                self._notice("FastStream is left out: it is not installed (extra bench)")
            elif contender.loop == "uvloop" and find_spec("uvloop") is None:
                self._notice("uvloop is left out: it is not installed")
            elif contender.adapter == "bare_socket" and self.servers.addr is not None:
                self._notice("the bare socket is left out: it only speaks to a server of the suite's own")
            else:
                left.append(contender)
        return replace(cell, contenders=tuple(left))

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)
            self.say(f"note: {text}")

    async def _cell(self, cell: Cell, seconds: float) -> None:
        """Measure in turn, A B A B."""
        url = await self.servers.url(cell.storage)
        async with eda.connect(url, client="bench-admin") as conn:
            stream = f"bench-{_number()}"
            if cell.workload == "consume":
                await fill(conn, stream, cell)
            try:
                measured: dict[Contender, list[tuple[Result, list[Any]]]] = defaultdict(list)
                if self._warms_up(cell):
                    for contender in cell.contenders:
                        await self._one(conn, url, cell, contender, stream, min(seconds, 0.3))
                for _ in range(self._rounds(cell)):
                    for contender in cell.contenders:
                        if found := await self._one(conn, url, cell, contender, stream, seconds):
                            measured[contender].append(found)
            finally:
                if cell.workload == "consume":
                    await conn.streams.delete(stream)
        for contender, found in measured.items():
            self.rows.append(row_of(cell, contender, found))

    async def _one(
        self, conn: eda.Conn, url: str, cell: Cell, contender: Contender, stream: str, seconds: float, rate: float = 0.0
    ) -> tuple[Result, list[Any]] | None:
        """Measure once and check the counts; None, and a notice, where the contender fails."""
        own = cell.workload != "consume"
        if own:
            stream = f"bench-{_number()}"
            await conn.streams.create(stream, options_of(cell.storage))
        names = tuple(f"consumer-{_number()}" for _ in range(cell.subscriptions)) if "pub" not in cell.workload else ()
        task = Task(
            url, stream, cell.workload, contender.mode, contender.loop, cell.size, seconds, cell.limit, rate, names
        )
        link = await nats.connect(url)
        try:
            result, memory = await measure(contender.adapter, task)
            await check(conn, link, task, result, contender.adapter)
        except (ChildFailed, WrongCount) as error:
            self._notice(f"{cell.name}: {contender.label} failed: {error}")
            return None
        finally:
            if own:
                await conn.streams.delete(stream)
            else:
                for name in names:
                    await link.request(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", timeout=5)
            await link.close()
        return result, memory

    async def _latency(self, cell: Cell, seconds: float) -> None:
        """Measure each one's capacity first, then latency at parts of it, and at a rate that all of them can do."""
        url = await self.servers.url(cell.storage)
        span = 0.4 if self.quick else max(LATENCY_S, seconds)
        async with eda.connect(url, client="bench-admin") as conn:
            capacity: dict[Contender, float] = {}
            for contender in cell.contenders:
                if found := await self._one(conn, url, cell, contender, "", min(span, 1.5)):
                    capacity[contender] = found[0].n / found[0].seconds
            if not capacity:
                return
            common = min(capacity.values()) / 2
            for level in (*SHARES, 0.0):
                measured: dict[Contender, list[tuple[Result, list[Any]]]] = defaultdict(list)
                for _ in range(self._rounds(cell)):
                    for contender, most in capacity.items():
                        rate = max(LATENCY_RATE_MIN, most * level) if level else common
                        if found := await self._one(conn, url, cell, contender, "", span, rate):
                            measured[contender].append(found)
                for contender, each in measured.items():
                    rate = max(LATENCY_RATE_MIN, capacity[contender] * level) if level else common
                    row = row_of(cell, contender, each)
                    row |= {
                        "load": f"{level:.0%} of its capacity" if level else "the same rate",
                        "offered": round(rate), "capacity": round(capacity[contender]),
                    }  # fmt: skip
                    self.rows.append(row)


def _number() -> str:
    return f"{time.time_ns():x}-{next(_numbers)}"


async def fill(conn: eda.Conn, stream: str, cell: Cell) -> None:
    """Publish as many events as a contender may consume."""
    await conn.streams.create(stream, options_of(cell.storage))
    data = data_of(cell.size)
    async with conn.publisher(stream) as pub:
        await pub.send_many(event_of(n, data) for n in range(cell.limit))


def spread(values: list[float]) -> dict[str, float]:
    """Return median and range, rounded to what they are worth."""
    return {key: float(f"{of(values):.5g}") for key, of in (("median", statistics.median), ("min", min), ("max", max))}


def row_of(cell: Cell, contender: Contender, found: list[tuple[Result, list[Any]]]) -> dict[str, Any]:
    """Return what the report has of a contender in a cell."""
    results = [result for result, _ in found]
    cpu = [result.cpu_s / result.n * 1e6 for result in results if result.cpu_s is not None]
    memory = [series for _, series in found]
    row: dict[str, Any] = {
        "group": cell.group,
        "workload": cell.workload,
        "size": cell.size,
        "storage": cell.storage,
        "subscriptions": cell.subscriptions,
        "contender": contender.label,
        "client": contender.name,
        "rounds": len(results),
        "events": sum(result.n for result in results),
        "events_per_s": spread([result.n / result.seconds for result in results]),
        "cpu_us_per_event": spread(cpu) if cpu else None,
        "peak_rss_mb": spread([max(mb for _, mb in series) for series in memory]) if all(memory) else None,
        "mode": results[-1].mode,
    }
    if cell.group.startswith("memory"):
        row["memory"] = memory[-1][:: max(1, len(memory[-1]) // SAMPLES_KEPT)]
    if results[0].latency_us:
        quantiles = [statistics.median(at) for at in zip(*[result.latency_us for result in results], strict=True)]
        row["latency_us"] = [round(value, 1) for value in quantiles]
        row["latency_ms"] = {
            name: round(quantile(quantiles, q) / 1000, 3) for name, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
        }
    return row
