"""`eda copy`: checks both streams, copies or resumes, and reports."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any

import click

import eda
from eda.amounts import duration_text
from eda.cli.event_range import Bounds, range_of
from eda.cli.failure import Failure
from eda.cli.option_names import told
from eda.cli.output import print_json, safe
from eda.cli.places import Chosen
from eda.cli.resuming import place_to_resume
from eda.cli.session import connection
from eda.cli.targets import check_target, is_same_stream
from eda.cli.transfer import Result, Transfer
from eda.cli.transfer_bar import TransferBar

__all__ = ["CopyOptions", "copy_events", "report"]


@dataclass(frozen=True)
class CopyOptions:
    """What the options of `eda copy` say."""

    chosen: Chosen
    resume: bool
    append: bool
    create: bool
    allow_discard: bool
    skips_refused: bool
    as_json: bool
    target_server: dict[str, Any] | None


async def copy_events(conn: eda.Conn, source: str, target: str, options: CopyOptions) -> bool:
    """Copy the events, print what became of them, and return whether all are stored. Raises Failure, EdaError."""
    if options.target_server is None:
        return await _copy(conn, conn, source, target, options)
    try:
        other = connection(options.target_server)
    except eda.ConfigError as error:
        raise Failure(re.sub("^(--)?(?=addr|cluster)", "--target-", told(error))) from None
    async with other:
        return await _copy(conn, other, source, target, options)


async def _copy(conn: eda.Conn, target_conn: eda.Conn, source: str, target: str, options: CopyOptions) -> bool:
    info = await conn.streams.info(source)
    events = await range_of(conn, info, options.chosen)
    target_info = await _target(target_conn, target, info, create=options.create)
    if is_same_stream(info, target_info):
        raise Failure(f"{source!r} and {target!r} are the same stream. To publish its events again, use `eda replay`")
    is_unknown = options.chosen.is_filtered or options.resume
    n_more = None if is_unknown else min(events.bounds.n_sequences, info.events)
    check_target(info, target_info, n_more, is_one_server=target_conn is conn, allow_discard=options.allow_discard)
    if target_info.events and not (options.resume or options.append):
        raise Failure(
            f"stream {target!r} has {target_info.events:,} messages already. Add --resume to continue an interrupted "
            "copy, or --append to copy the events behind them"
        )
    identify = identified_by_place(info)
    if options.resume:
        first = await place_to_resume(events, (conn, info), (target_conn, target_info), identify)
        events = events.within(Bounds(first, events.bounds.last))
    with TransferBar(f"copy to {target}", events.bounds) as bar:
        transfer = Transfer(
            target_conn,
            target,
            change=identify,
            skips_refused=options.skips_refused,
            on_progress=bar.show,
        )
        try:
            await transfer.run(events)
        finally:
            bar.stop()
            if transfer.has_begun:
                report(transfer.result, source, target, as_json=options.as_json)
    result = transfer.result
    # In a stream that was empty, a duplicate means that the source has two events with one id.
    lost = result.duplicates if not options.append else 0
    if lost and not options.as_json:
        click.echo(
            f"{lost:,} of the stored messages are missing in {target}: it recognised their ids as duplicates", err=True
        )
    return not (result.refused or result.no_events or lost)


async def _target(conn: eda.Conn, target: str, source: eda.StreamInfo, *, create: bool) -> eda.StreamInfo:
    try:
        return await conn.streams.info(target)
    except eda.StreamNotFound:
        if not create:
            raise Failure(
                f"there is no stream {target!r}; --create makes it, with the settings of the source"
            ) from None
    options = replace(source.options, store=False, atomic=None, fast_ingest=None)
    return await conn.streams.create(target, options)


def identified_by_place(info: eda.StreamInfo) -> Callable[[eda.Event], eda.Event]:
    """Return a function that gives an event without an id one that is the same in each copy; it changes no other event.

    The id consists of the stream, the time of its creation, and the event's place.
    """
    made_us = int(info.created.astimezone(UTC).timestamp() * 1e6)
    prefix = f"copy:{info.name}:{made_us:x}:"

    def identified(event: eda.Event) -> eda.Event:
        return event if event.id else event.replace(id=f"{prefix}{event.sequence}.{event.index}")

    return identified


def report(result: Result, source: str, target: str, *, as_json: bool, is_copy: bool = True) -> None:
    """Print what became of the events: an object of JSON, or a line and what went wrong. `is_copy`: not a replay."""
    if as_json:
        print_json(
            {
                "source": source,
                "target": target,
                "read": result.read,
                "stored": result.stored,
                "duplicates": result.duplicates,
                "refused": result.refused,
                "no_events": result.no_events,
                "complete": result.is_complete,
                "next": str(result.next),
                "seconds": round(result.seconds, 3),
            }
        )
        return
    rate = f" ({result.stored / result.seconds:,.0f}/s)" if result.seconds > 1 else ""
    done = "copied" if is_copy else "replayed"
    click.echo(f"{result.stored:,} events {done} from {source} to {target} in {duration_text(result.seconds)}{rate}")
    if result.duplicates:
        click.echo(f"{result.duplicates:,} messages were in {target} already, and are not stored twice", err=True)
    if result.no_events:
        click.echo(f"{result.no_events:,} messages of {source} are not events, and were left out", err=True)
    if result.refused:
        click.echo(f"{result.refused:,} events were not stored:", err=True)
        for place, event_id, error in result.failures:
            click.echo(f"  {place} {safe(event_id)}: {safe(error)}", err=True)
    if result.is_uncertain:
        how = "Continue with --resume" if is_copy else f"Look at the last events of {target} before you continue"
        click.echo(f"no answer came for the last events: they may be stored or not. {how}", err=True)
    elif not result.is_complete:
        # The target has events now, so a copy must be told to append.
        click.echo(f"not finished: continue with --from {result.next}{' --append' if is_copy else ''}", err=True)
