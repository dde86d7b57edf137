"""`eda subs rewind`, `reset` and `rm`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

import eda
from eda.amounts import duration_text
from eda.cli.failure import Failure
from eda.cli.lookup import run_on_known
from eda.cli.output import confirm, print_json, safe, time_text
from eda.cli.sub_list import lag_text, no_subscription
from eda.cli.values import time_beside_places

__all__ = ["remove_sub", "reset_sub", "rewind_sub", "target_of"]

_SHOWN = {"first": "the first event", "end": "the next event that is stored"}
_AHEAD = timedelta(minutes=1)  # by which the clock of a server may differ
_PLACE = re.compile(r"\d+(\.\d+)?", re.ASCII)


def target_of(to: str | None, since: datetime | None, *, first: bool, end: bool) -> str | datetime:
    """Return what the options name. Raises Failure unless they name exactly one target."""
    given = [to is not None, since is not None, first, end]
    if sum(given) != 1:
        raise Failure("give one of --to, --since, --first and --end")
    if to is not None:
        if not _PLACE.fullmatch(to):
            try:
                return _past(time_beside_places(to))
            except click.BadParameter as error:
                error.param_hint = "'--to'"
                raise
        if not int(to.partition(".")[0]):
            raise Failure("--to: sequences begin with 1")
        return to
    return since if since is not None else "first" if first else "end"


def _past(time: datetime) -> datetime:
    """Return the time. Raises Failure if it is in the future: by a mistyped year, all events would be passed over."""
    if time > datetime.now(UTC) + _AHEAD:
        raise Failure(f"--to: {time.isoformat()} is in the future; --end waits for the next event")
    return time


def rewind_sub(
    server: Mapping[str, Any],
    stream: str,
    name: str,
    target: str | datetime,
    *,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Move the position of a subscription, after a question."""
    found = _look(server, stream, name)
    _check_members(found, force=force, how="it goes on at the new position, after 5 s")
    shown = _SHOWN.get(target, target) if isinstance(target, str) else f"the first event since {time_text(target)}"
    confirm(
        f"The last event that {_where(stream, name)} has done is {found.done}. Its position decides what it gets: "
        f"events that it has done may come again, and others may be passed over. Let it go on with {shown}?",
        yes=yes,
    )

    async def work(conn: eda.Conn) -> eda.SubscriptionMove:
        return await conn.move_subscription(stream, name, to=target, force=force)

    if found.info.is_active and found.info.kind == "ordered":
        click.echo("waiting for 5 s, until no handler of the old position can run", err=True)
    moved = run_on_known(server, work)
    if as_json:
        fields = {"name": moved.name, "stream": moved.stream, "kind": moved.kind}
        print_json(fields | {"before": moved.before, "after": moved.after})
    else:
        before = moved.before or "in a deleted stream of the same name"
        click.echo(f"{_where(stream, name)}: the last event that counts as done is {moved.after} now; it was {before}")


def reset_sub(server: Mapping[str, Any], stream: str, name: str, *, force: bool, yes: bool, as_json: bool) -> None:
    """Forget the position of a subscription, after a question."""
    found = _look(server, stream, name)
    _check_members(found, force=force, how="its members end with ConsumerDeleted")
    confirm(
        f"Forget the position of {_where(stream, name)}, after {found.done}? Its next member starts as its options "
        "say.",
        yes=yes,
    )
    _delete(server, stream, name, force=force, as_json=as_json, done="has no position any more")


def remove_sub(server: Mapping[str, Any], stream: str, name: str, *, force: bool, yes: bool, as_json: bool) -> None:
    """Delete a subscription, after a question. It may be a cursor of a stream that does not exist."""

    async def look(conn: eda.Conn) -> eda.SubscriptionDetails | None:
        try:
            return await conn.subscription(stream, name)
        except (eda.StreamNotFound, eda.ConfigError):  # an entry that can't be read can be deleted
            return None

    found = run_on_known(server, look)
    lag = ""
    if found is not None:
        _check_members(found, force=force, how="its members end with ConsumerDeleted")
        lag = f", which is after {found.done} (lag: {lag_text(found.info.lag, found.info.lag_s)})"
    confirm(f"Delete {_where(stream, name)} with its position{lag}?", yes=yes)
    _delete(server, stream, name, force=force, as_json=as_json, done="was deleted")


def _delete(server: Mapping[str, Any], stream: str, name: str, *, force: bool, as_json: bool, done: str) -> None:
    async def work(conn: eda.Conn) -> bool:
        return await conn.delete_subscription(stream, name, force=force)

    if not run_on_known(server, work):
        raise no_subscription(stream, name)
    if as_json:
        print_json({"stream": stream, "name": name, "deleted": True})
    else:
        click.echo(f"{_where(stream, name)} {done}")


def _look(server: Mapping[str, Any], stream: str, name: str) -> eda.SubscriptionDetails:
    """Return the subscription. Raises NotThere."""

    async def work(conn: eda.Conn) -> eda.SubscriptionDetails | None:
        return await conn.subscription(stream, name)

    found = run_on_known(server, work)
    if found is None:
        raise no_subscription(stream, name)
    return found


def _check_members(found: eda.SubscriptionDetails, *, force: bool, how: str) -> None:
    """Raise Failure if members are open and `force` was not given."""
    info = found.info
    if not info.is_active or force:
        return
    where = _where(info.stream, info.name)
    if info.kind == "shared":
        lease = duration_text(found.lease_s) if found.lease_s else "its lease"
        why = f"they are open, or one was closed or killed within the last {lease}"
        how = "its members end with ConsumerDeleted"
    else:
        why = f"{safe(info.holder or '')} handles its events"
    raise Failure(f"{where} has members: {why}. Close them; with --force, {how}")


def _where(stream: str, name: str) -> str:
    return f"subscription {safe(name)!r} of stream {safe(stream)!r}"
