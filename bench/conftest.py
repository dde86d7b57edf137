"""What the benchmarks share: one server, interleaved contenders, and a table of ratios at the end."""

from __future__ import annotations

import asyncio
import statistics
import time
import timeit
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import eda
from bars import BARS
from micro import maker_of

Contender = tuple[str, Callable[[], float | None]]

_figures: dict[str, float] = {}


@pytest.fixture(scope="session")
def server() -> Iterator[eda.EmbeddedServer]:
    """One nats-server with file storage for all live benchmarks."""
    server = eda.EmbeddedServer()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def duel(benchmark: Any) -> Callable[..., None]:
    """Run ours and its rivals in turn (A B C A B C …) and note the median of each under its name.

    A contender returns its own figure (seconds, microseconds …: less is better), or None to be timed as a whole.
    pytest-benchmark times ours.
    """

    def run(ours: Contender, *rivals: Contender, rounds: int = 5) -> None:
        measured: dict[str, list[float]] = {name: [] for name, _ in (ours, *rivals)}

        def measure(name: str, contender: Callable[[], float | None]) -> None:
            started = time.perf_counter()
            figure = contender()
            measured[name].append(time.perf_counter() - started if figure is None else figure)

        def others() -> None:
            for name, rival in rivals:
                measure(name, rival)

        benchmark.pedantic(lambda: measure(*ours), setup=others, rounds=rounds, iterations=1, warmup_rounds=1)
        for name, figures in measured.items():
            _figures[name] = statistics.median(figures[1:])
            benchmark.extra_info[name] = _figures[name]

    return run


@pytest.fixture
def note() -> Callable[[str, float], None]:
    """Note a figure under a name, for the table."""
    return _figures.__setitem__


@pytest.fixture
def contest(benchmark: Any, note: Callable[[str, float], None]) -> Callable[..., None]:
    """Run contenders of an area of micro/ in turn and note the nanoseconds per event; pytest-benchmark times ours.

    The fastest of many short rounds counts: what a busy machine adds is not theirs.
    """

    def run(area: str, *names: str) -> None:
        contenders = {name: maker_of(f"{area}.{name}")() for name in names}
        best = dict.fromkeys(names, float("inf"))
        for _ in range(60 if benchmark.enabled else 1):
            for name, contender in contenders.items():
                number = max(1, 5000 // contender.n)
                ns = timeit.timeit(contender.run, number=number) / number / contender.n * 1e9
                best[name] = min(best[name], ns)
        for name, ns in best.items():
            note(f"{name.replace('_', ' ')} ns", ns)
            benchmark.extra_info[f"{name} ns"] = ns
        benchmark(contenders[names[0]].run)

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = []
    for bar in BARS:
        try:
            ratio = bar.ratio(_figures)
        except KeyError:
            continue
        rows.append(f"{'ok  ' if bar.holds(ratio) else 'MISS'} {ratio:8.2f}  bar {bar.sign} {bar.bound:<5g} {bar.what}")
    if rows:
        terminalreporter.section("ratios, medians of interleaved rounds in this run")
        for row in rows:
            terminalreporter.write_line(row)
        for name, figure in sorted(_figures.items()):
            terminalreporter.write_line(f"     {figure:12.3f}  {name}")
