"""`eda bench`: publish and consume with the user's own payload size, and the figures of it."""

from __future__ import annotations

from math import isnan
from typing import Any

import click

from eda.cli.limits import MAX_EVENTS, MIN_SIZES
from eda.cli.options import addr_option, json_option

__all__ = ["bench"]

DEFAULT_S = 5.0
MAX_S = 3600.0
MAX_SIZE = 64 * 2**20  # nats-server's own limit; a server usually takes 1 MiB


@click.command()
@addr_option
@click.option("--events", type=click.IntRange(1, MAX_EVENTS), help="How many events to publish, of all publishers.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, MAX_S, min_open=True),
    help=f"How long to publish instead.  [default: {DEFAULT_S:g}]",
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
    help="Encoding of the payload; making and reading it counts as work of the client.",
)
@click.option(
    "--publishers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Publishers, all in one process.",
)
@click.option(
    "--subscriptions",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Subscriptions, all in one process; each gets every event.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "window", "fast"]),
    default="auto",
    show_default=True,
    help="How publishers have their events acknowledged.",
)
@click.option("--exclusive", is_flag=True, help="Exclusive subscriptions in place of shared ones.")
@click.option("--serial", is_flag=True, help="Serial subscriptions in place of shared ones.")
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
    """Publish from one process and handle in another, as fast as it goes, and tell what it took.

    Uses a stream of its own, in file storage, and deletes it at the end, with its consumers and kept cursors (the
    bucket eda-cursors, which those of exclusive and serial subscriptions need, stays). Publish to handler is the time
    at full load: much of it is spent waiting for events that came before.

    Ends with 0 when nothing was lost and nothing came twice, with 1 when something was or failed.
    """
    if seconds is not None and isnan(seconds):  # which is in every range
        raise click.BadParameter("nan is no time", param_hint="--seconds")
    if events and seconds:
        raise click.UsageError("--events and --seconds each say when to end; give one of them")
    if exclusive and serial:
        raise click.UsageError("--exclusive and --serial are two kinds of subscription; give one of them")
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
    asked = {name: getattr(work, name) for name in ("size", "encoding", "publishers", "subscriptions", "kind")}
    n_subs = f"{work.subscriptions} {kind} subscription{'s' * (work.subscriptions > 1)}"
    n_pubs = f"{work.publishers} publisher{'s' * (work.publishers > 1)}"
    titles = Titles(
        table=f"{{events:,}} events of {work.size:,} bytes ({work.encoding}), {n_pubs}, {n_subs}",
        passed="nothing lost, nothing twice" + (", order kept" if kind != "shared" else ""),
    )
    run_and_show(work, addr, as_json, titles, asked)
