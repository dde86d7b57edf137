"""`eda top`: the streams and subscriptions that are busy now."""

from __future__ import annotations

from typing import Any

import click

from eda.cli.options import interval_option, lines_option, server_options

__all__ = ["top"]


@click.command()
@click.argument("streams", metavar="[STREAM]...", nargs=-1)
@interval_option
@click.option(
    "--streams",
    "n_streams",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="How many streams to show if none is named: the busiest.",
)
@click.option("--once", is_flag=True, help="Measure for one interval, print the table, and end.")
@lines_option
@server_options
def top(streams: tuple[str, ...], interval: float, n_streams: int, once: bool, as_json: bool, **server: Any) -> None:
    """Show what streams and subscriptions do: rates in and out, lag, redeliveries and dead letters.

    `in/s` of a stream is how many messages were stored in a second. `out/s` of a subscription is how far its position
    has moved; events that its filter leaves out count, too. A pack counts as one. `lag` is how many events are not
    done, `age` how old the oldest of them is, and `trend` how much the lag grows in a second. `dead` is how many
    messages the stream STREAM-dead has, and how many were added since the command began. The server does not learn
    of failed handlers; `redel.` is how many events in flight of a shared subscription were delivered before.

    In each interval, the command asks for all streams once, and for the subscriptions of the streams that it shows. It
    looks again when all answers have come. If no stream is named, buckets and object stores are left out. Ctrl-C ends
    it.

    With --json, each row is an object with the field row. A stream has the fields time, row ("stream"), stream, in_s
    (messages per second), events, dead and dead_added. A subscription has the fields time, row ("subscription"),
    stream, name, kind, out_s (per second), position, lag, lag_s, trend_s (per second), holder, in_flight, redelivered
    and active.

    The exit code is 130 after Ctrl-C, and 1 if a stream does not exist.
    """
    from eda.cli.top_table import show_top

    show_top(server, streams, n_streams=n_streams, interval_s=interval, once=once, as_json=as_json)
