"""`eda graph`: reads the streams, and writes the graph in the form that was asked for."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TextIO

import click

import eda
from eda.cli.event_range import range_of
from eda.cli.failure import Failure
from eda.cli.graph_events import GraphEvent, chain_of, newest, read_events
from eda.cli.graph_html import html_page
from eda.cli.graph_text import CYPHER, DOT, TextForm
from eda.cli.places import Chosen

__all__ = ["GraphOptions", "write_graph"]


@dataclass(frozen=True)
class GraphOptions:
    """What the options of `eda graph` say."""

    chosen: Chosen
    event_id: str | None
    limit: int | None
    form: str
    """html, dot, cypher or json"""
    output: str


async def write_graph(conn: eda.Conn, streams: tuple[str, ...], options: GraphOptions) -> bool:
    """Write the graph. Return whether there is the event that `event_id` names. Raises Failure, EdaError, OSError."""
    ranges = [
        await range_of(conn, await conn.streams.info(stream), options.chosen, may_miss=True) for stream in streams
    ]
    async with aclosing(read_events(ranges)) as events:
        if options.event_id is not None or options.limit is not None:
            return await _write_held(events, streams, options)
        with _output(options.output) as to:
            async for piece in _pieces(events, options.form):
                to.write(piece)
    return True


async def _write_held(
    events: AsyncGenerator[GraphEvent, None], streams: tuple[str, ...], options: GraphOptions
) -> bool:
    """Choose events while they are in memory, then write them."""
    if options.event_id is not None:
        held = await chain_of(events, options.event_id)
        if not held:
            click.echo(f"Error: no event has the id {options.event_id!r}", err=True)
            return False
        n_all = len(held)
        held = held[-options.limit :] if options.limit is not None else held
    else:
        assert options.limit is not None
        held, n_all = await newest(events, options.limit, is_one_stream=len(streams) == 1)
    if len(held) < n_all:
        click.echo(
            f"these are the newest {len(held):,} of {n_all:,} events; choose others with --from and --to", err=True
        )
    with _output(options.output) as to:
        if options.form == "html":
            to.writelines(html_page(held, streams, n_all))
        else:
            async for piece in _pieces(_each(held), options.form):
                to.write(piece)
    return True


async def _each(held: list[GraphEvent]) -> AsyncGenerator[GraphEvent, None]:
    for event in held:
        yield event


async def _pieces(events: AsyncGenerator[GraphEvent, None], form: str) -> AsyncGenerator[str, None]:
    """Yield the text of the graph, event by event."""
    if form == "json":
        async for event in events:
            yield f"{json.dumps(asdict(event))}\n"
        return
    how: TextForm = DOT if form == "dot" else CYPHER
    yield how.begin
    async for event in events:
        yield how.event(event)
    yield how.end


@contextmanager
def _output(path: str) -> Iterator[TextIO]:
    """Return where to write. A file gets its name when it is complete; after an error, nothing of it is left."""
    if path == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    directory, name = os.path.split(os.path.abspath(path))
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory, text=True)
    except OSError as error:
        raise Failure(f"{path} can't be written: {error.strerror}") from None
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    """Return the permissions that new files do not get. It can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
