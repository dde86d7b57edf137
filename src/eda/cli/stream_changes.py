"""`eda streams create`, `update`, `purge` and `rm`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

import eda
from eda.amounts import duration_text
from eda.cli.failure import Failure
from eda.cli.lookup import run_on_known
from eda.cli.output import confirm, print_json, safe
from eda.cli.stream_list import details_of, print_details

__all__ = ["create_stream", "purge_stream", "remove_stream", "update_stream"]

BUCKET_STREAM = "KV_eda-cursors"  # the positions of all ordered subscriptions
_NAME_IN_USE = 10058  # the code of the server
MAX_NAMED = 5  # subscriptions that a question names


def create_stream(server: Mapping[str, Any], settings: dict[str, Any], name: str, *, as_json: bool) -> None:
    """Create a stream, and print it."""

    async def work(conn: eda.Conn) -> dict[str, Any]:
        try:
            info = await conn.streams.create(name, eda.StreamOptions(**settings))
        except eda.ServerError as error:
            if error.err_code != _NAME_IN_USE:
                raise
            raise Failure(
                f"stream {safe(name)!r} exists already, with other settings: `eda streams update` changes it"
            ) from None
        return details_of(info, [])

    print_details(run_on_known(server, work), as_json=as_json)


def update_stream(server: Mapping[str, Any], settings: dict[str, Any], name: str, *, yes: bool, as_json: bool) -> None:
    """Change settings of a stream, and print it. Ask before events are removed."""
    if not settings:
        raise Failure("give at least one setting to change")

    async def look(conn: eda.Conn) -> eda.StreamInfo:
        return await conn.streams.info(name)

    async def work(conn: eda.Conn) -> dict[str, Any]:
        return details_of(await conn.streams.update(name, **settings), await conn.subscriptions(name))

    why = _removed_by(run_on_known(server, look), settings)
    if why:
        confirm(f"Stream {safe(name)!r} {why}. Change it?", yes=yes)
    print_details(run_on_known(server, work), as_json=as_json)


def _removed_by(info: eda.StreamInfo, settings: dict[str, Any]) -> str:
    """Return which events the new limits remove; an empty string if they remove none."""
    if settings.get("discard", info.options.discard) == "old":
        # A stream that refused new messages may have more than its limit.
        most = settings.get("max_events", info.options.max_events)
        if most is not None and info.events > most:
            return f"has {info.events:,} messages, and keeps only the last {most:,} then"
        most = settings.get("max_bytes", info.options.max_bytes)
        if most is not None and info.bytes > most:
            return f"has {info.bytes:,} bytes, and keeps only the last {most:,} then"
    max_age_s = settings.get("max_age_s")
    if max_age_s is not None and info.first_time_ns:
        age_s = datetime.now(UTC).timestamp() - info.first_time_ns / 1e9
        if age_s > max_age_s:
            ages = duration_text(age_s), duration_text(max_age_s)
            return f"has events that are {ages[0]} old, and removes those older than {ages[1]} then"
    return ""


def purge_stream(server: Mapping[str, Any], name: str, *, yes: bool, as_json: bool, **which: Any) -> None:
    """Remove events of a stream, after a question."""

    async def look(conn: eda.Conn) -> tuple[eda.StreamInfo, list[eda.SubscriptionInfo]]:
        return await conn.streams.info(name), await conn.subscriptions(name, standbys=False)

    async def work(conn: eda.Conn) -> int:
        return await conn.streams.purge(name, **which)

    if not yes:
        info, subscriptions = run_on_known(server, look)
        question = f"Remove {_described(info, which)} of stream {safe(name)!r}?"
        before = which["before"]
        late = [each for each in subscriptions if before is None or each.position + 1 < before]
        confirm(f"{_warning(name, info)}{_behind(late)}{question}", yes=False)
    purged = run_on_known(server, work)
    if as_json:
        print_json({"stream": name, "purged": purged})
    else:
        click.echo(f"{purged:,} messages of stream {safe(name)!r} were removed")


def _described(info: eda.StreamInfo, which: Mapping[str, Any]) -> str:
    """Return which events are removed, as a part of a question."""
    of = "" if which["aggregate"] is None else f" of the aggregate {safe(which['aggregate'])!r}"
    if which["before"] is not None:
        return f"the events before {which['before']:,}{of}"
    if which["keep"] is not None:
        return f"all events{of} but the last {which['keep']:,}"
    return f"all events{of}" if of else f"all {info.events:,} messages"


def remove_stream(server: Mapping[str, Any], name: str, *, cursors: bool, yes: bool, as_json: bool) -> None:
    """Delete a stream, after a question."""

    async def look(conn: eda.Conn) -> tuple[eda.StreamInfo, list[eda.SubscriptionInfo]]:
        return await conn.streams.info(name), await conn.subscriptions(name, standbys=False)

    async def work(conn: eda.Conn) -> int:
        await conn.streams.delete(name)
        if not cursors:
            return 0
        deleted = [await conn.delete_subscription(name, each.name, force=True) for each in ordered]
        return sum(deleted)

    info, found = run_on_known(server, look)
    shared = [each for each in found if each.kind == "shared"]
    ordered = [each for each in found if each.kind == "ordered"]
    question = f"Delete stream {safe(name)!r} with {info.events:,} messages?"
    confirm(f"{_warning(name, info)}{_lost(shared, ordered, cursors=cursors)}{question}", yes=yes)
    n_cursors = run_on_known(server, work)
    if as_json:
        counts = {"shared": len(shared), "ordered": len(ordered), "cursors_deleted": n_cursors}
        print_json({"stream": name, "events": info.events} | counts)
        return
    click.echo(f"stream {safe(name)!r} was deleted with {info.events:,} messages")
    if ordered and not cursors:
        click.echo(
            f"the positions of {_named(ordered)} stay in the bucket eda-cursors; `eda subs rm {safe(name)} NAME` "
            "deletes them",
            err=True,
        )


def _warning(name: str, info: eda.StreamInfo) -> str:
    if name == BUCKET_STREAM:
        return "This stream has the positions of all ordered subscriptions: without them they begin anew. "
    if info.options.store:
        return "This stream belongs to event stores: its aggregates are gone then. "
    return ""


def _behind(subscriptions: list[eda.SubscriptionInfo]) -> str:
    """Return which subscriptions have not handled all events."""
    behind = [each for each in subscriptions if each.lag]
    if not behind:
        return ""
    listed = ", ".join(f"{safe(each.name)} ({each.lag:,})" for each in behind[:MAX_NAMED])
    more = f" and {len(behind) - MAX_NAMED} more" if len(behind) > MAX_NAMED else ""
    return f"Events that these subscriptions have not handled may be lost for them: {listed}{more}. "


def _lost(shared: list[eda.SubscriptionInfo], ordered: list[eda.SubscriptionInfo], *, cursors: bool) -> str:
    """Return what happens to the subscriptions of a stream that is deleted."""
    text = ""
    if shared:
        text += f"The shared subscriptions {_named(shared)} are deleted with it. "
    if ordered and cursors:
        text += f"The positions of the ordered subscriptions {_named(ordered)} are deleted, too. "
    elif ordered:
        text += f"The positions of the ordered subscriptions {_named(ordered)} stay, and are worth nothing then. "
    if any(each.is_active for each in (*shared, *ordered)):
        text += "Members that are open end with an error. "
    return text


def _named(subscriptions: list[eda.SubscriptionInfo]) -> str:
    more = f" and {len(subscriptions) - MAX_NAMED} more" if len(subscriptions) > MAX_NAMED else ""
    return ", ".join(safe(each.name) for each in subscriptions[:MAX_NAMED]) + more
