"""`eda tail`: prints the events of a stream, and follows it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import click

from eda.cli.options import server_options
from eda.cli.values import WHEN

__all__ = ["tail"]

MAX_LAST = 1_000_000
MAX_SEQUENCE = 2**63 - 1


class _Sequence(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A stream sequence, as an int."""

    name = "sequence"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if re.fullmatch(r"\d{1,19}", text, re.ASCII) and 0 < int(text) <= MAX_SEQUENCE:
            return int(text)
        if re.fullmatch(r"\d+\.\d+", text, re.ASCII):
            why = f"is a place in a pack, but `eda tail` begins with a whole message: give {text.partition('.')[0]}"
        else:
            why = "is not a stream sequence: write a number from 1. For a time, use --since"
        raise click.BadParameter(f"{value!r} {why}", ctx, param)


@click.command()
@click.argument("stream")
@click.option("--follow/--no-follow", default=True, help="Whether to go on with new events.  [default: follow]")
@click.option("--from", "start", type=_Sequence(), metavar="SEQ", help="Begin with this stream sequence.")
@click.option(
    "--since",
    type=WHEN,
    metavar="TIME",
    help="Begin with the events stored since then: 1h, 2d, 2026-11-30T10:00. A time without an offset is local.",
)
@click.option(
    "--last",
    type=click.IntRange(0, MAX_LAST),
    metavar="N",
    help="Begin with the last N events that match.  [default: 10 if the command follows, else all events]",
)
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only events of this type. May be repeated.")
@click.option("--aggregate", metavar="NAME", help="Only events of this aggregate.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option("--json/--pretty", "as_json", default=None, help="JSON lines, or text.  [default: text on a terminal]")
@server_options
def tail(
    stream: str,
    follow: bool,
    start: int | None,
    since: datetime | None,
    last: int | None,
    types: tuple[str, ...],
    aggregate: str | None,
    limit: int | None,
    as_json: bool | None,
    **server: Any,
) -> None:
    """Print the events of a stream, and new events as they come.

    The command changes nothing on the server: it creates no durable consumer and acknowledges nothing. It goes on after
    a lost connection. It can read streams of every retention, also mirrors and packed streams. From streams with
    retention interest or workqueue it reads stored messages, four times a second, and may miss an event that is
    acknowledged sooner.

    A line of JSON has the fields stream, aggregate, version (0: none), sequence, index (the place in a pack, else 0),
    type, id, time, ack_time (when the stream stored it), cause, client, schema, meta, encoding and data. Times are null
    if they are not set. If the data has no exact form in JSON, data_base64 has the stored bytes; if it has none at all,
    data is null. `eda pub STREAM --lines` publishes such lines.

    The exit code is 0 if the command came to its end (--no-follow, --limit), 1 if the reader of its output has gone, 2
    if the stream can't be read or the output can't be written, 130 after Ctrl-C, and 143 after SIGTERM.
    """
    if sum(each is not None for each in (start, since, last)) > 1:
        raise click.UsageError("--from, --since and --last each say where to begin; give only one of them")
    import sys

    from eda.cli.session import run_with_conn
    from eda.cli.tailing import Wanted, print_events

    if last is None and start is None and since is None and follow:
        last = 10
    wanted = Wanted(stream, follow, start or since, last, types or None, aggregate, limit)
    is_json = not sys.stdout.isatty() if as_json is None else as_json
    has_reader = run_with_conn(server, lambda conn: print_events(conn, wanted, as_json=is_json), client="eda-tail")
    if not has_reader:
        raise BrokenPipeError(32, "the reader of the output has gone")  # click ends the program
