"""`eda demo`: sends events through a real server and back, measures it, and checks that none was lost."""

from __future__ import annotations

import click

from eda.cli.limits import MAX_EVENTS, N_SENSORS
from eda.cli.options import addr_option, json_option, packed_option

__all__ = ["demo"]


@click.command()
@click.option(
    "--events",
    type=click.IntRange(1, MAX_EVENTS),
    default=200_000,
    show_default=True,
    help="How many events to publish.",
)
@packed_option
@addr_option
@json_option
def demo(events: int, packed: bool, addr: str | None, as_json: bool) -> None:
    """Publish events from one process, handle them in another, and check that every one arrived once and in order.

    The exit code is 0 if the check passed; otherwise, or after an error, it is 1.
    """
    from eda.cli.report import Titles
    from eda.cli.show import run_and_show
    from eda.cli.work import Work

    n_aggregates = min(N_SENSORS, events)
    titles = Titles(
        table=f"{{events:,}} events of {n_aggregates:,} aggregates" + ", in packs" * packed,
        passed="nothing lost, nothing twice, order kept, read model correct",
    )
    work = Work(client="eda-demo", events=events, packed=packed)
    run_and_show(work, addr, as_json, titles, {"aggregates": n_aggregates, "packed": packed})
