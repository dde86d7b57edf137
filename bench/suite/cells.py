"""What is measured: a cell is one workload, done in turn by contenders."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["SHARES", "Cell", "Contender", "cells"]

SIZES = (16, 128, 1024, 8192, 65_536)
SUBSCRIPTIONS = (1, 2, 4, 8)
SHARES = (0.01, 0.5, 0.9)
MAX_EVENTS = 200_000
MAX_BYTES = 96 << 20
MEMORY_S = 6.0


@dataclass(frozen=True)
class Contender:
    """Who does it and how: an adapter, its event loop, and what the adapter calls the way."""

    name: str
    adapter: str
    mode: str
    loop: str = "asyncio"

    @property
    def label(self) -> str:
        """The name of a row."""
        return f"{self.name} {self.loop}, {self.mode}" if self.loop == "uvloop" else f"{self.name}, {self.mode}"


@dataclass(frozen=True)
class Cell:
    """One workload at one payload size on one kind of stream. `seconds`: fixed rather than a part of the budget."""

    group: str
    workload: str
    contenders: tuple[Contender, ...]
    size: int = 128
    storage: str = "R1 file"
    subscriptions: int = 1
    rounds: int = 3
    seconds: float | None = None
    max_events: int = MAX_EVENTS

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.group}, {self.size} B, {self.storage}, {self.subscriptions} subscriptions"

    def of(self, names: tuple[str, ...]) -> Cell:
        """Return the same with none but these contenders: `nats-py`, or one row, `nats-py, push`."""
        return replace(self, contenders=tuple(each for each in self.contenders if {each.name, each.label} & {*names}))

    @property
    def limit(self) -> int:
        """The most events of one measurement."""
        return max(500, min(self.max_events, MAX_BYTES // self.size)) if self.workload == "consume" else 10**8


def eda(mode: str, loop: str = "asyncio") -> Contender:
    return Contender("eda", "eda", mode, loop)


def nats_py(mode: str, loop: str = "asyncio") -> Contender:
    return Contender("nats-py", "nats_py", mode, loop)


def faststream(mode: str) -> Contender:
    return Contender("FastStream", "faststream", mode)


def nats_c(mode: str) -> Contender:
    return Contender("nats.c", "nats_c", mode, "C")


def bare(mode: str) -> Contender:
    return Contender("bare socket", "bare_socket", mode)


def each(mode: str, *, rival_mode: str | None = None) -> tuple[Contender, ...]:
    """Everybody: eda and nats-py on both loops, FastStream, nats.c."""
    rival = rival_mode or mode
    return eda(mode), eda(mode, "uvloop"), nats_py(rival), nats_py(rival, "uvloop"), faststream(rival), nats_c(rival)


VOLUME = (eda("fast"), nats_py("publish_async"), faststream("concurrent"), nats_c("publish_async"), bare("fast"))
CONSUME = (eda("default"), nats_py("push"), faststream("push"), nats_c("push"), bare("pull"))


def cells(*, quick: bool) -> list[Cell]:
    """Return all cells. `quick`: each workload once, fewer sizes and counts."""
    sizes = (16, 65_536) if quick else SIZES
    counts = (1, 4) if quick else SUBSCRIPTIONS
    rounds = 1 if quick else 3
    sweep = 1 if quick else 2
    planned = [
        Cell("publish single", "publish-single", (*each("single"), bare("single")), rounds=rounds),
        Cell("publish concurrent", "publish-concurrent", each("concurrent"), rounds=rounds),
        Cell(
            "publish at volume",
            "publish-volume",
            (
                eda("fast"), eda("fast", "uvloop"), bare("fast"), eda("window"), eda("window", "uvloop"),
                bare("window"), eda("atomic"), nats_py("publish_async"), nats_py("publish_async", "uvloop"),
                faststream("concurrent"), nats_c("publish_async"),
            ),
            rounds=rounds,
        ),
        Cell(
            "consume",
            "consume",
            (
                eda("default"), eda("default", "uvloop"), bare("pull"), eda("serial"), eda("key"), eda("batch"),
                eda("exclusive batch"), nats_py("push"), nats_py("push", "uvloop"), nats_py("fetch"),
                nats_py("one at a time"), faststream("push"), faststream("pull"), nats_c("push"), nats_c("fetch"),
            ),
            rounds=rounds,
        ),
    ]  # fmt: skip
    planned += [Cell("publish by size", "publish-volume", VOLUME, size=size, rounds=sweep) for size in sizes]
    planned += [Cell("consume by size", "consume", CONSUME, size=size, rounds=sweep) for size in sizes]
    planned += [
        Cell(
            "subscriptions", "consume", (eda("default"), nats_py("push")), subscriptions=count, rounds=sweep,
            max_events=50_000,
        )
        for count in counts
    ]  # fmt: skip
    for storage in ("R1 file", "R1 memory", "R3 file"):
        ways = (eda("fast"), eda("window"), nats_py("publish_async"), nats_c("publish_async"))
        planned += [
            Cell("publish by storage", "publish-volume", ways, storage=storage, rounds=sweep),
            Cell(
                "publish single by storage", "publish-single", (eda("single"), nats_py("single")), storage=storage,
                rounds=sweep,
            ),
            Cell("consume by storage", "consume", (eda("default"), nats_py("push")), storage=storage, rounds=sweep),
        ]  # fmt: skip
    planned.append(Cell("latency", "latency", each("publish to handler"), rounds=1 if quick else 2))
    seconds = 0.5 if quick else MEMORY_S
    events = 100_000 if quick else 1_000_000
    planned += [
        Cell(
            "memory, publishing", "publish-volume", (eda("fast"), nats_py("publish_async")), rounds=1, seconds=seconds,
        ),
        Cell(
            "memory, consuming", "consume", (eda("default"), nats_py("push")), rounds=1, seconds=seconds,
            max_events=events,
        ),
    ]  # fmt: skip
    return planned
