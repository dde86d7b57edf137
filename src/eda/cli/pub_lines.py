"""Publishes lines for `eda pub --lines`: opens them, shows the progress, and prints the summary."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import click

import eda
from eda.cli.blocks import LineBlocks
from eda.cli.ending import print_to_end
from eda.cli.failure import Failure
from eda.cli.line_publisher import Counts, publish_lines
from eda.cli.output import console, print_json
from eda.cli.pub_one import existing_stream
from eda.cli.session import run_with_conn

__all__ = ["run_lines"]

SHOW_S = 0.2  # between two changes of the progress bar


def run_lines(
    stream: str,
    file: str | None,
    server: dict[str, Any],
    *,
    stops: bool,
    drops_versions: bool,
    create: bool,
    as_json: bool,
) -> None:
    """Publish the lines of a file or of standard input, and print a summary. Raises Exit and Failure."""
    counts = Counts(stream)

    async def work(conn: eda.Conn) -> None:
        info = await existing_stream(conn, stream, create=create)
        fd = sys.stdin.fileno() if file is None else os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        showing: asyncio.Task[None] | None = None
        try:
            blocks = LineBlocks(fd)

            def watch(update: Callable[[], None]) -> None:
                nonlocal showing
                if sys.stderr.isatty():
                    showing = asyncio.get_running_loop().create_task(_show(blocks, counts, update))

            await publish_lines(
                conn,
                stream,
                blocks,
                counts,
                packed=info.options.packed,
                stops=stops,
                drops_versions=drops_versions,
                watch=watch,
            )
        finally:
            if showing is not None:
                showing.cancel()
                await asyncio.wait({showing})
            if file is not None:
                os.close(fd)

    is_done = False
    try:
        run_with_conn(server, work, client="eda-pub")
        is_done = True
    finally:
        if is_done or counts.lines:
            print_to_end(lambda: _print(counts, as_json=as_json), Failure)
    if not counts.is_complete:
        raise click.exceptions.Exit(1)


def _print(counts: Counts, *, as_json: bool) -> None:
    if not as_json:
        click.echo(counts.text())
        return
    names = ("stream", "lines", "stored", "refused", "bad", "pending")
    print_json({name: getattr(counts, name) for name in names})


async def _show(blocks: LineBlocks, counts: Counts, update: Callable[[], None]) -> None:
    """Show on standard error how far the publishing is, until it is cancelled."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from eda.cli.columns import Done, Rate

    # The bar shows the part of the file that was read; how many lines it has is not known.
    columns = (
        TextColumn("stored"),
        Done(),
        Rate(),
        BarColumn(),
        TextColumn("{task.fields[part]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        task = bars.add_task("stored", total=None, part="")
        while True:
            update()
            part = f"{blocks.n_bytes / blocks.size:4.0%}" if blocks.size else ""
            bars.update(task, completed=counts.stored, part=part)
            await asyncio.sleep(SHOW_S)
