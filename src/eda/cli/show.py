"""Runs the work and shows it: progress bars, the report at the end, errors in one line, and the exit code."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from eda._version import __version__
from eda.cli.columns import Done, Rate
from eda.cli.ending import run_to_end
from eda.cli.report import Titles, print_report, python_name, report_of
from eda.cli.sides import Figures, SideFailed, run_sides
from eda.cli.work import Work
from eda.errors import EdaError

__all__ = ["run_and_show"]


def run_and_show(work: Work, addr: str | None, as_json: bool, titles: Titles, asked: dict[str, Any]) -> None:
    """Do the work and print its report. Raises Exit or ClickException if anything failed or the check did not pass."""
    running = _run_quietly(work, addr) if as_json else _run_with_bars(work, addr)
    # After a signal the stream is deleted.
    figures = run_to_end(running, (EdaError, SideFailed, OSError), click.ClickException)
    report = report_of(work, figures, asked)
    if as_json:
        click.echo(json.dumps(report))
    else:
        print_report(report, titles, Console())
        sys.stdout.flush()
    if not report["ok"]:
        raise click.exceptions.Exit(1)


async def _run_quietly(work: Work, addr: str | None) -> Figures:
    return await run_sides(work, addr, lambda _: None, lambda *_: None, lambda line: click.echo(line, err=True))


async def _run_with_bars(work: Work, addr: str | None) -> Figures:
    console = Console()
    columns = (TextColumn("{task.description:>7}"), BarColumn(), Done(), Rate(), TimeElapsedColumn())
    bars = Progress(*columns, console=console)
    # If the run is limited by time, the number of events is not known beforehand.
    totals = {"publish": work.events, "handle": work.events and work.events * work.subscriptions}
    tasks = {name: bars.add_task(name, total=total, start=False) for name, total in totals.items()}

    def show(name: str, n: int) -> None:
        task = tasks[name]
        if n:
            bars.start_task(task)
        bars.update(task, completed=n)

    def begin(server: str) -> None:
        console.print(Text(f"eda {__version__}, {python_name()}\n{server}"))
        bars.start()

    try:
        return await run_sides(work, addr, begin, show, lambda line: console.print(Text(line)))
    finally:
        if bars.live.is_started:
            bars.stop()
