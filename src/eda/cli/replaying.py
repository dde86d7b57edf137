"""`eda replay`: publishes the events of a range again, or prints them, with the time between them as it was."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from dataclasses import dataclass

import click

import eda
from eda.cli.copying import identified_by_place, report
from eda.cli.event_range import range_of
from eda.cli.failure import Failure
from eda.cli.history import print_json
from eda.cli.pacing import StoredPace
from eda.cli.places import Chosen, Place
from eda.cli.targets import check_target, is_same_stream
from eda.cli.transfer import Transfer, place_after
from eda.cli.transfer_bar import TransferBar

__all__ = ["ReplayOptions", "print_events", "replay_events"]


@dataclass(frozen=True)
class ReplayOptions:
    """What the options of `eda replay` say."""

    chosen: Chosen
    speed: float | None
    """None: as fast as possible"""
    longest_s: float | None
    new_ids: bool
    as_json: bool


async def replay_events(conn: eda.Conn, source: str, target: str, options: ReplayOptions) -> bool:
    """Publish the events of the range into the target, print what became of them, and return whether all are stored."""
    info = await conn.streams.info(source)
    events = await range_of(conn, info, options.chosen)
    target_info = await conn.streams.info(target)
    if not is_same_stream(info, target_info):
        check_target(info, target_info, None, is_one_server=True, allow_discard=True)
    elif not options.new_ids:
        raise Failure(
            f"{target!r} has these events already, and would recognise their ids as duplicates. Add --new-ids to "
            "publish them into the same stream again"
        )
    with TransferBar(f"replay to {target}", events.bounds) as bar:
        transfer = Transfer(
            conn,
            target,
            change=_renamed if options.new_ids else identified_by_place(info),
            pace=None if options.speed is None else StoredPace(options.speed, options.longest_s),
            on_progress=bar.show,
        )
        try:
            await transfer.run(events)
        finally:
            bar.stop()
            if transfer.has_begun:
                report(transfer.result, source, target, as_json=options.as_json, is_copy=False)
    result = transfer.result
    if result.duplicates and not options.as_json:
        click.echo("Add --new-ids to publish events again that the target has stored lately", err=True)
    return not (result.refused or result.no_events or result.duplicates)


async def print_events(conn: eda.Conn, source: str, options: ReplayOptions) -> None:
    """Print the events of the range as lines of JSON."""
    events = await range_of(conn, await conn.streams.info(source), options.chosen)
    pace = None if options.speed is None else StoredPace(options.speed, options.longest_s, sys.stdout.flush)
    last: Place | None = None
    try:
        async with aclosing(events.lists()) as lists:
            async for part in lists:
                if pace is None:
                    print_json(part)
                    last = place_after(part[-1])
                    continue
                for event in part:
                    await pace.wait(event)
                    print_json([event])
                    last = place_after(event)
    except asyncio.CancelledError:
        if last is not None:
            click.echo(f"not finished: continue with --from {last}", err=True)
        raise


def _renamed(event: eda.Event) -> eda.Event:
    """Return the event without its id, so that the publisher gives it a new one."""
    return event.replace(id="")
