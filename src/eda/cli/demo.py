"""`eda demo`: events through a real server and back, with figures, and a check that none was lost."""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from eda.cli.check import N_SENSORS, Verdict
from eda.cli.sides import DemoError, Figures, run_sides
from eda.errors import EdaError

__all__ = ["VERSION", "demo"]

MAX_EVENTS = 100_000_000
INTERRUPTED = 130

try:
    VERSION = metadata.version("eda-fast")
except metadata.PackageNotFoundError:
    VERSION = "(not installed)"


@click.command()
@click.option(
    "--events",
    type=click.IntRange(1, MAX_EVENTS),
    default=200_000,
    show_default=True,
    help="How many events to publish.",
)
@click.option(
    "--addr",
    metavar="URL",
    help="A NATS server of yours, with JetStream; the demo uses a stream of its own and deletes it. "
    "[default: an embedded nats-server]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of bars and a table.")
def demo(events: int, addr: str | None, as_json: bool) -> None:
    """Publish events from one process, handle them in another, and check that every one arrived once and in order.

    Ends with 0 when the check holds, with 1 when it does not or something failed.
    """
    try:
        figures = asyncio.run(_run_quietly(events, addr) if as_json else _run_with_bars(events, addr))
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except (EdaError, DemoError, OSError) as error:
        raise click.ClickException(" ".join(str(error).split())) from None
    report = _report(events, figures)
    if as_json:
        click.echo(json.dumps(report))
    else:
        _print_table(report)
    if not report["ok"]:
        raise click.exceptions.Exit(1)


async def _run_quietly(n_events: int, addr: str | None) -> Figures:
    return await run_sides(n_events, addr, lambda _: None, lambda *_: None, _log)


async def _run_with_bars(n_events: int, addr: str | None) -> Figures:
    console = Console()
    columns = (TextColumn("{task.description:>7}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn())
    bars = Progress(*columns, console=console)
    tasks = {name: bars.add_task(name, total=n_events, start=False) for name in ("publish", "handle")}

    def show(name: str, n: int) -> None:
        task = tasks[name]
        if n:
            bars.start_task(task)
        bars.update(task, completed=n)

    def begin(server: str) -> None:
        console.print(Text(f"eda {VERSION}, {_python()}\n{server}"))
        bars.start()

    try:
        return await run_sides(n_events, addr, begin, show, lambda line: console.print(Text(line)))
    finally:
        if bars.live.is_started:
            bars.stop()


def _log(line: str) -> None:
    click.echo(line, err=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:>9,.0f}/s" if speed else "         -/s")


def _python() -> str:
    loop = "uvloop" if find_spec("uvloop") is not None else "asyncio"
    return f"{platform.python_implementation()} {platform.python_version()} with {loop}"


def _report(n_events: int, figures: Figures) -> dict[str, Any]:
    """Return everything that is printed."""
    published, handled = figures.published, figures.handled
    verdict = Verdict(**handled["check"])

    def side(result: dict[str, Any]) -> dict[str, float]:
        return {
            "seconds": round(result["seconds"], 6),
            "events_per_s": round(n_events / max(result["seconds"], 1e-9), 1),
            "cpu_us_per_event": round(result["cpu_s"] / n_events * 1e6, 3),
        }

    return {
        "ok": verdict.ok,
        "events": n_events,
        "aggregates": min(N_SENSORS, n_events),
        "publish": side(published),
        "handle": side(handled),
        "publish_to_handler_ms": {"p50": round(handled["p50_ms"], 3), "p99": round(handled["p99_ms"], 3)},
        "check": verdict.to_dict(),
        "server": figures.server,
        "python": _python(),
        "version": VERSION,
    }


def _print_table(report: dict[str, Any]) -> None:
    out, into, times = report["publish"], report["handle"], report["publish_to_handler_ms"]
    table = Table("", "publish", "handle", title=f"{report['events']:,} events of {report['aggregates']:,} aggregates")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("events/s", f"{out['events_per_s']:,.0f}", f"{into['events_per_s']:,.0f}")
    table.add_row("client CPU per event", f"{out['cpu_us_per_event']:.2f} µs", f"{into['cpu_us_per_event']:.2f} µs")
    table.add_row("publish to handler, p50", "", f"{times['p50']:.2f} ms")
    table.add_row("publish to handler, p99", "", f"{times['p99']:.2f} ms")
    console = Console()
    console.print(table)
    if report["ok"]:
        console.print("[green]check passed[/]: nothing lost, nothing twice, order kept, read model right")
    else:
        found = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in report["check"].items() if count)
        console.print(f"[red]check failed[/]: {found}")
    sys.stdout.flush()
