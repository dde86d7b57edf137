"""Measures what packs bring, and draws it: python bench/plot_packs.py docs/plots/packs.svg.

Three panels: publishing by the size of packs, consuming by kind of subscription, and bytes on disk. Each figure of the
first two is the median of ROUNDS runs, taken in turn.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import eda  # noqa: E402
from macro.publishing import test_packs as publishing  # noqa: E402
from macro.subscribing import test_packs as subscribing  # noqa: E402
from micro.handling.dispatch import make_event  # noqa: E402
from suite.plots import panels, svg  # noqa: E402

ROUNDS = 3
N = 200_000
SIZES = (1, 4, 16, 64, 128, 256)  # events of a pack; 1: no packs
KINDS = {
    "exclusive,\nbatch": {"exclusive": True, "batch": 500},
    "default": {},
    "serial": {"serial": True},
    "key": {"key": "aggregate", "concurrency": 16},
}
WITH, WITHOUT = "#1769aa", "#9dc3e6"

Figures = dict[str, list[float]]


async def publish_rate(server: eda.EmbeddedServer, size: int) -> float:
    events = publishing.ready_events(N if size > 1 else N // 4)
    pack = eda.Pack(max_events=size) if size > 1 else None
    return len(events) / await publishing.send_many_s(server, events, pack)


async def measured(what: dict[str, Callable[[], Awaitable[float]]]) -> Figures:
    figures: Figures = {name: [] for name in what}
    for _ in range(ROUNDS):
        for name, measure in what.items():
            figures[name].append(await measure())
    return figures


async def main(path: str) -> None:
    """Measure, and write the plot."""
    async with eda.EmbeddedServer() as server:
        published = await measured({str(size): lambda size=size: publish_rate(server, size) for size in SIZES})
        bytes_of = {
            "no packs": await publishing.stored_bytes(server, None),
            "packs": await publishing.stored_bytes(server, eda.Pack()),
            "packs,\nzstd": await publishing.stored_bytes(server, eda.Pack(compression="zstd")),
        }
        async with eda.connect(server.url) as conn:
            for stream, pack, n in (
                (subscribing.PACKED, subscribing.PACK, subscribing.N_PACKED),
                (subscribing.UNPACKED, None, subscribing.N_UNPACKED),
            ):
                await conn.streams.create(stream, eda.StreamOptions(packed=pack is not None))
                async with conn.publisher(stream, pack=pack) as publisher:
                    await publisher.send_many(make_event(i) for i in range(n))
        both = (subscribing.PACKED, subscribing.UNPACKED)
        consumed = await measured(
            {
                f"{stream} {kind}": lambda stream=stream, options=options: subscribing.read_s(server, stream, **options)
                for kind, options in KINDS.items()
                for stream in both
            }
        )
    draw(path, published, consumed, bytes_of)


def median(values: list[float]) -> float:
    return statistics.median(values)


def draw(path: str, published: Figures, consumed: Figures, bytes_of: dict[str, int]) -> None:
    figure, (first, second, third) = panels(3, 3.1)
    first.bar(
        list(published), [median(each) / 1e6 for each in published.values()],
        color=[WITHOUT if size == "1" else WITH for size in published],
    )  # fmt: skip
    first.set(title="publish", xlabel="events in a pack (1: no packs)", ylabel="million events per second")
    for at, (stream, label, colour) in enumerate(
        ((subscribing.UNPACKED, "no packs", WITHOUT), (subscribing.PACKED, "packs of 128", WITH))
    ):
        rates = [subscribing.N_PACKED / median(consumed[f"{stream} {kind}"]) / 1e6 for kind in KINDS]
        second.bar([i + at * 0.4 for i in range(len(KINDS))], rates, 0.38, label=label, color=colour)
    second.set_xticks([i + 0.2 for i in range(len(KINDS))], list(KINDS))
    second.set(title="consume", ylabel="million events per second")
    second.legend(fontsize=7)
    third.bar(list(bytes_of), [each / publishing.N_READINGS for each in bytes_of.values()], color=[WITHOUT, WITH, WITH])
    third.set(title="JSON readings on disk", ylabel="bytes per event")
    Path(path).write_text(svg(figure), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
