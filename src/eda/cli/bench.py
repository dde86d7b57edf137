"""`eda bench`: publishes and handles events of a chosen payload size, and measures both."""

from __future__ import annotations

from math import isnan
from typing import Any

import click

from eda.cli.limits import MAX_EVENTS, MIN_SIZES
from eda.cli.options import addr_option, json_option, packed_option

__all__ = ["bench"]

DEFAULT_S = 5.0
MAX_S = 3600.0
MAX_SIZE = 64 * 2**20  # the most that nats-server can be configured to take; its default is 1 MiB
_ASKED = ("size", "encoding", "publishers", "subscriptions", "kind", "packed")


@click.command()
@addr_option
@click.option(
    "--events", type=click.IntRange(1, MAX_EVENTS), help="How many events to publish, by all publishers together."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, MAX_S, min_open=True),
    help=f"How long to publish, instead of a number of events.  [default: {DEFAULT_S:g}]",
)
@click.option(
    "--size",
    type=click.IntRange(min(MIN_SIZES.values()), MAX_SIZE),
    default=128,
    show_default=True,
    help="Bytes of payload in each event.",
)
@click.option(
    "--encoding",
    type=click.Choice(list(MIN_SIZES)),
    default="bytes",
    show_default=True,
    help="Encoding of the payload. The figures include encoding and decoding it.",
)
@click.option(
    "--publishers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Number of publishers, all in one process.",
)
@click.option(
    "--subscriptions",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Number of subscriptions, all in one process. Each of them gets every event.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "window", "fast"]),
    default="auto",
    show_default=True,
    help="How the server acknowledges the publishers' events.",
)
@packed_option
@click.option("--exclusive", is_flag=True, help="Use exclusive subscriptions instead of shared ones.")
@click.option("--serial", is_flag=True, help="Use serial subscriptions instead of shared ones.")
@json_option
def bench(
    addr: str | None,
    events: int | None,
    seconds: float | None,
    exclusive: bool,
    serial: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Publish from one process and handle in another, as fast as possible, and print the figures.

    The command creates a stream in file storage. At the end it deletes the stream with its consumers and cursors. (The
    bucket eda-cursors, which exclusive and serial subscriptions need, stays.) The time from publish to handler is
    measured at full load, so it is mostly the time that an event waits for earlier ones.

    The exit code is 0 if no event was lost and none came twice; otherwise, or after an error, it is 1.
    """
    if seconds is not None and isnan(seconds):  # FloatRange accepts it
        raise click.BadParameter("nan is not a time", param_hint="--seconds")
    if events and seconds:
        raise click.UsageError("--events and --seconds both limit the run; give only one of them")
    if exclusive and serial:
        raise click.UsageError("--exclusive and --serial are different kinds of subscription; give only one of them")
    if rest["size"] < MIN_SIZES[rest["encoding"]]:
        least = MIN_SIZES[rest["encoding"]]
        raise click.BadParameter(f"{rest['encoding']} needs {least} bytes or more", param_hint="--size")
    from eda.cli.report import Titles
    from eda.cli.show import run_and_show
    from eda.cli.work import Kind, Work

    kind: Kind = "exclusive" if exclusive else "serial" if serial else "shared"
    if not events:
        seconds = seconds or DEFAULT_S
    work = Work(client="eda-bench", events=events, seconds=seconds, kind=kind, **rest)
    asked = {name: getattr(work, name) for name in _ASKED}
    n_subs = f"{work.subscriptions} {kind} subscription{'s' * (work.subscriptions > 1)}"
    n_pubs = f"{work.publishers} publisher{'s' * (work.publishers > 1)}"
    in_packs = ", in packs" * work.packed
    titles = Titles(
        table=f"{{events:,}} events of {work.size:,} bytes ({work.encoding}){in_packs}, {n_pubs}, {n_subs}",
        passed="nothing lost, nothing twice" + (", order kept" if kind != "shared" else ""),
    )
    run_and_show(work, addr, as_json, titles, asked)
