"""`eda subs`: lists, describes, moves and deletes kept subscriptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from eda.cli.options import lines_option, server_options, yes_option
from eda.cli.values import WHEN

__all__ = ["subs"]

F = TypeVar("F", bound=Callable[..., Any])

_force_option: Callable[[F], F] = click.option(
    "--force", is_flag=True, help="Do it although members of the subscription are open."
)


@click.group()
def subs() -> None:
    """List, describe, move and delete kept subscriptions.

    These are the subscriptions whose position the server keeps: shared ones, which are consumers of their stream, and
    durable ordered ones (exclusive, serial, key), whose cursors are in the bucket eda-cursors. Projections keep their
    positions in their database: `eda views ls` lists them.
    """


@subs.command("ls")
@click.argument("stream", required=False)
@lines_option
@server_options
def list_subs(stream: str | None, as_json: bool, **server: Any) -> None:
    """List the kept subscriptions of STREAM, or of all streams.

    `lag` is how many events are not done, and `age` how old the oldest of them is. A pack counts as one. `members` of
    an ordered subscription is the client that handles the events, and how many standbys have answered. It is silent if
    it has not written for 5 s. `redel.` is how many events in flight of a shared one were delivered before.

    With --json, each subscription is an object with the fields name, kind (shared or ordered), stream, position, lag,
    lag_s, holder, standbys, in_flight, redelivered, updated and active (whether a member gets events). A field that is
    not known, or that the kind does not have, is null. The lag of a cursor whose stream does not exist any more, or was
    made again, is null.

    The exit code is 1 if there is no such stream.
    """
    from eda.cli.sub_list import show_subs

    show_subs(server, stream, as_json=as_json)


@subs.command()
@click.argument("stream")
@click.argument("name")
@lines_option
@server_options
def info(stream: str, name: str, as_json: bool, **server: Any) -> None:
    """Describe one subscription with its settings.

    With --json, one object is printed, with the fields of `subs ls` and done (the last event that is done, such as "7",
    or "7.2" in a pack), filter (a list of subjects), dead (how many dead letters it has in the stream STREAM-dead) and
    dead_complete (false if there were too many to count in 2 s).

    An ordered subscription also has stream_created, epoch (how often a member took over) and tries (how many holders in
    a row vanished at this position); a shared one has created, made_by, lease_s, max_ack_pending, max_deliver, durable,
    filtered_by_server, pulls and paused_until.

    The exit code is 1 if there is no such stream or subscription.
    """
    from eda.cli.sub_list import show_sub

    show_sub(server, stream, name, as_json=as_json)


@subs.command()
@click.argument("stream")
@click.argument("name")
@click.option("--to", metavar="SEQ|TIME", help="The sequence (or the place in a pack, such as 7.3), or the time.")
@click.option("--since", metavar="DURATION", type=WHEN, help="How long ago, such as 1h.")
@click.option("--first", is_flag=True, help="The first event of the stream.")
@click.option("--end", is_flag=True, help="The next new event: all others count as done.")
@_force_option
@yes_option
@lines_option
@server_options
def rewind(
    stream: str,
    name: str,
    to: str | None,
    since: Any,
    first: bool,
    end: bool,
    force: bool,
    yes: bool,
    as_json: bool,
    **server: Any,
) -> None:
    """Move the position of a subscription, back or forward, so that the given event is the next one that it gets.

    Give one of --to, --since, --first and --end. A time stands for the first event that was stored then or later. If
    an event is gone, the first one after it is next. A shared subscription can't begin in the middle of a pack.

    Close the members first. With --force, the members of a shared subscription end with ConsumerDeleted and must be
    opened again; the members of an ordered one go on at the new position, after 5 s in which handlers can end.

    The position is the old or the new one, whenever the command is interrupted or killed. If it is killed within the
    5 s, the members go on 5 s later, and the next event counts one attempt more.

    With --json, one object is printed with name, stream, kind, before and after: the last event that was done, and that
    counts as done now. `before` is null if the position was in a deleted stream of the same name.

    The exit code is 1 if there is no such stream or subscription, or if the answer is no.
    """
    from eda.cli.sub_changes import rewind_sub, target_of

    target = target_of(to, since, first=first, end=end)
    rewind_sub(server, stream, name, target, force=force, yes=yes, as_json=as_json)


@subs.command()
@click.argument("stream")
@click.argument("name")
@_force_option
@yes_option
@lines_option
@server_options
def reset(stream: str, name: str, force: bool, yes: bool, as_json: bool, **server: Any) -> None:
    """Forget the position of a subscription: its next member starts as its options say.

    The server keeps nothing of a subscription but its position, so this does the same as `subs rm`, except that the
    subscription must exist, and its stream too.

    Close the members first. With --force, they end with ConsumerDeleted. With --json, one object with stream, name and
    deleted is printed.

    The exit code is 1 if there is no such stream or subscription, or if the answer is no.
    """
    from eda.cli.sub_changes import reset_sub

    reset_sub(server, stream, name, force=force, yes=yes, as_json=as_json)


@subs.command("rm")
@click.argument("stream")
@click.argument("name")
@_force_option
@yes_option
@lines_option
@server_options
def remove(stream: str, name: str, force: bool, yes: bool, as_json: bool, **server: Any) -> None:
    """Delete a kept subscription with its position. The stream may be gone already.

    Close the members first. With --force, they end with ConsumerDeleted. Dead letters of the subscription stay. With
    --json, one object with stream, name and deleted is printed.

    The exit code is 1 if there is no such subscription, or if the answer is no.
    """
    from eda.cli.sub_changes import remove_sub

    remove_sub(server, stream, name, force=force, yes=yes, as_json=as_json)
