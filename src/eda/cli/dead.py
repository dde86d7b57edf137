"""`eda dead`: lists, shows, replays and drops dead letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eda.cli.failure import Failure
from eda.cli.options import lines_option, server_options, yes_option
from eda.cli.values import WHEN

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["dead"]

LIMIT = 100  # rows of a table

F = TypeVar("F", bound=Callable[..., Any])

REASONS = ("rejected", "attempts", "undecodable")

_dead_letter_option: Callable[[F], F] = click.option(
    "--dead-letter", metavar="STREAM", help="The dead-letter stream.  [default: {stream}-dead]"
)
_name_option: Callable[[F], F] = click.option("--name", metavar="NAME", help="Only letters of this subscription.")
_reason_option: Callable[[F], F] = click.option(
    "--reason", type=click.Choice(REASONS), help="Only letters with this reason."
)
_sequences_option: Callable[[F], F] = click.option(
    "--seq",
    "sequences",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="SEQ",
    help="Only the letter with this sequence in the dead-letter stream. May be repeated.",
)


@click.group()
def dead() -> None:
    """Look into dead letters: events that a subscription gave up. Replay or drop them."""


@dead.command("ls")
@click.argument("stream")
@_name_option
@_reason_option
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only events of this type. May be repeated.")
@click.option("--since", type=WHEN, metavar="TIME", help="Only events that were given up at this time or later.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Print at most N letters.  [default: {LIMIT}; with --json or --summary: all]",
)
@click.option("--summary", is_flag=True, help="Print how many letters each subscription has, by reason.")
@click.option("--others", is_flag=True, help="Also print what else is in the dead-letter stream.")
@_dead_letter_option
@lines_option
@server_options
def list_letters(
    stream: str,
    name: str | None,
    reason: str | None,
    types: tuple[str, ...],
    since: datetime | None,
    limit: int | None,
    summary: bool,
    others: bool,
    dead_letter: str | None,
    as_json: bool,
    **server: Any,
) -> None:
    """List the dead letters of STREAM, the oldest first.

    The command changes nothing. With --others, it also lists the letters of other streams that have the same
    dead-letter stream, and messages that are not dead letters.

    With --json, each letter is an object with the fields sequence (in the dead-letter stream), dead_letter (that
    stream), stream, subscription, reason, error, attempts, time, place ("7", or "7.3" for an event of a pack),
    event_sequence, event_index, event_id, type, aggregate, bytes, omitted_bytes and no_event. If there is no event,
    no_event says why, and type and aggregate are null. For a message that is not a dead letter, reason and subscription
    are empty.

    With --json and --summary, each object has the fields stream, subscription, reason, letters, first_time, last_time
    and last_error.

    The exit code is 0, also if there are no dead letters, or 2 if they can't be read.
    """
    from eda.cli.dead_list import list_dead, summarise_dead
    from eda.cli.session import run_with_conn

    options = {"name": name, "reason": reason, "since": since, "dead_letter": dead_letter, "others": others}
    if summary:
        run_with_conn(server, lambda conn: summarise_dead(conn, stream, frozenset(types), limit, options, as_json))
        return
    most = limit if limit is not None or as_json else LIMIT
    run_with_conn(server, lambda conn: list_dead(conn, stream, frozenset(types), most, options, as_json))


@dead.command()
@click.argument("stream")
@click.argument("sequence", metavar="SEQ", type=click.IntRange(min=1))
@_dead_letter_option
@lines_option
@server_options
def show(stream: str, sequence: int, dead_letter: str | None, as_json: bool, **server: Any) -> None:
    """Show all of one dead letter of STREAM. SEQ is its sequence in the dead-letter stream.

    The command changes nothing. If the payload was too large for the letter, it is read from STREAM.

    With --json, the object has the fields of `eda dead ls`, and these: subject, headers, payload_base64 (the message as
    it was stored) and event. The last one is null, or has the fields that `eda tail` prints.

    The exit code is 0, or 1 if there is no such message, or 2 if it can't be read.
    """
    from eda.cli.dead_show import show_dead
    from eda.cli.session import run_with_conn

    if not run_with_conn(server, lambda conn: show_dead(conn, stream, sequence, dead_letter, as_json)):
        raise click.exceptions.Exit(1)


@dead.command()
@click.argument("stream")
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Replay at most N letters.")
@_sequences_option
@_dead_letter_option
@lines_option
@server_options
def replay(
    stream: str,
    name: str,
    limit: int | None,
    sequences: tuple[int, ...],
    dead_letter: str | None,
    as_json: bool,
    **server: Any,
) -> None:
    """Publish the dead letters of subscription NAME back into STREAM, for this subscription alone.

    Each letter is removed when STREAM has stored its event. A letter stays if it is not an event, or if its payload is
    gone; the command says how many stay.

    You can interrupt the command at any time. Each letter is then replayed and removed, or untouched. Only the letter
    in hand may be published and still there. If you replay it again within the duplicate window of STREAM, its event is
    not stored twice: the event's new id is made of the letter's sequence.

    With --json, the command prints one object with the fields stream, subscription, replayed and stayed. With --limit,
    stayed is null.

    The exit code is 0, or 1 if some letters stayed or NAME has none, or 2 if the work could not be done.
    """
    from eda.cli.dead_changes import replay_letters
    from eda.cli.session import run_with_conn

    options = {"limit": limit, "sequences": sequences or None, "dead_letter": dead_letter}
    if not run_with_conn(server, lambda conn: replay_letters(conn, stream, name, options, as_json)):
        raise click.exceptions.Exit(1)


@dead.command()
@click.argument("stream")
@_sequences_option
@_name_option
@_reason_option
@click.option("--all", "everything", is_flag=True, help="Drop all dead letters of STREAM.")
@_dead_letter_option
@yes_option
@lines_option
@server_options
def drop(
    stream: str,
    sequences: tuple[int, ...],
    name: str | None,
    reason: str | None,
    everything: bool,
    dead_letter: str | None,
    yes: bool,
    as_json: bool,
    **server: Any,
) -> None:
    """Remove dead letters of STREAM for ever. Choose them by --seq, --name or --reason, or take --all.

    The command counts the letters, asks, and then removes exactly these. Letters that are stored meanwhile stay, and so
    do letters of other streams and messages that are not dead letters. If it fails or you interrupt it, some may be
    removed, and the others are untouched. Standard error then says how many at least and at most.

    With --json, the command prints one object with the fields stream and dropped.

    The exit code is 0, or 1 if there are no such letters or your answer is no, or 2 if the work could not be done.
    """
    from eda.cli.dead_changes import chosen_letters, drop_letters
    from eda.cli.output import confirm
    from eda.cli.session import run_with_conn

    if everything == bool(sequences or name or reason):
        raise Failure("say which letters to drop: --seq, --name, --reason, or --all alone")
    options = {"name": name, "reason": reason, "sequences": sequences or None, "dead_letter": dead_letter}
    found = run_with_conn(server, lambda conn: chosen_letters(conn, stream, options))
    if not found:
        click.echo("there are no such dead letters", err=True)
        raise click.exceptions.Exit(1)
    where = dead_letter or f"{stream}-dead"
    confirm(f"Remove {len(found):,} dead letter{'s' if len(found) > 1 else ''} from {where} for ever?", yes=yes)
    run_with_conn(server, lambda conn: drop_letters(conn, stream, found, dead_letter, as_json))
