"""`eda lag`: how far subscriptions are behind, once or again and again."""

from __future__ import annotations

from typing import Any

import click

from eda.cli.options import interval_option, lines_option, server_options
from eda.cli.values import DURATION

__all__ = ["lag"]


@click.command()
@click.argument("streams", metavar="[STREAM]...", nargs=-1)
@click.option("--max", "most", metavar="N", type=click.IntRange(min=0), help="Fail if a lag is above this.")
@click.option(
    "--max-age", "most_s", metavar="DURATION", type=DURATION, help="Fail if an event waits longer, such as 5m."
)
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@interval_option
@lines_option
@server_options
def lag(
    streams: tuple[str, ...],
    most: int | None,
    most_s: float | None,
    watch: bool,
    interval: float,
    as_json: bool,
    **server: Any,
) -> None:
    """Show how far the kept subscriptions of the streams, or of all streams, are behind; the worst first.

    `lag` is how many events are not done, and `age` how old the oldest of them is. A pack counts as one event.
    Projections are not shown: `eda views ls` shows them.

    With --json, each subscription is an object with the fields time, stream, name, kind, position, lag, lag_s, active
    and ok. `ok` is false if the lag is above --max or --max-age. An unknown lag, of a cursor whose stream was made
    again, is null, and above any limit. With --watch, all of them are printed again after each interval.

    The exit code is 1 if a lag is above a limit, or if a stream does not exist. With --watch the limits only mark the
    subscriptions, and Ctrl-C ends the command with 130.
    """
    from eda.cli.lag_table import show_lag

    show_lag(server, streams, most=most, most_s=most_s, interval_s=interval if watch else None, as_json=as_json)
