"""`eda copy` and its options."""

from __future__ import annotations

from typing import Any

import click

from eda.cli.options import lines_option, server_options
from eda.cli.places import Chosen, choosing_options

__all__ = ["copy"]


@click.command()
@click.argument("source")
@click.argument("target")
@choosing_options
@click.option("--create", is_flag=True, help="Create TARGET with the settings of SOURCE if it does not exist.")
@click.option("--resume", is_flag=True, help="Continue after the last event that TARGET has.")
@click.option("--append", is_flag=True, help="Copy into TARGET although it has events.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do if TARGET refuses an event.",
)
@click.option("--allow-discard", is_flag=True, help="Copy although the limits of TARGET would remove events.")
@click.option("--target-addr", metavar="URL", help="The server of TARGET.  [default: that of SOURCE]")
@click.option("--target-context", metavar="NAME", help="The context of the nats command line for TARGET.")
@click.option("--target-cluster", metavar="DOMAIN", help="The JetStream domain that TARGET is in.")
@lines_option
@server_options
def copy(
    source: str,
    target: str,
    chosen: Chosen,
    create: bool,
    resume: bool,
    append: bool,
    on_error: str,
    allow_discard: bool,
    target_addr: str | None,
    target_context: str | None,
    target_cluster: str | None,
    as_json: bool,
    **server: Any,
) -> None:
    """Copy the events of SOURCE into TARGET, in their order.

    A copied event keeps its id, times, type, aggregate, cause, client, schema, meta and data. If it has no time or no
    client, it gets those of the copy. If it has no id, its id is made of its place in SOURCE, the same in each copy.
    Sequences are new. Versions of an event store, and headers that other programs gave a message, are left out. If
    TARGET is packed, the events are put into packs.

    The command copies what SOURCE has when it begins. It reads without a trace, and refuses a TARGET that could not
    hold the events. It skips messages that are not events, and events that were replayed for one subscription alone.

    If you interrupt it, it waits for the answers to what it has sent, and prints where to continue. If it was killed,
    use --resume with the same options: the command finds the last event of TARGET in SOURCE and continues after it.
    Nobody else may write to TARGET then. A copy that is repeated with --append stores nothing twice within the
    duplicate window of TARGET, if TARGET is not packed; after that, it does.

    With --json, the command prints one object with the fields source, target, read (events), stored (events that TARGET
    has confirmed), duplicates (messages that TARGET had already), refused, no_events (messages that were skipped),
    complete, next (where to continue) and seconds.

    The exit code is 0 if all events are stored, or 1 if some were refused, dropped as duplicates in a new copy, or are
    not events, or 2 if the work could not be done.
    """
    from eda.cli.copying import CopyOptions, copy_events
    from eda.cli.session import run_with_conn

    if resume and append:
        raise click.UsageError("Choose one of --resume and --append.")
    if target_addr is not None and target_context is not None:
        raise click.UsageError("--target-addr and --target-context name two servers: give one of them")
    target_server = None
    if target_addr is not None or target_context is not None:
        target_server = {"addr": target_addr, "context": target_context, "cluster": target_cluster}
    elif target_cluster is not None:
        target_server = server | {"cluster": target_cluster}
    options = CopyOptions(
        chosen=chosen,
        resume=resume,
        append=append,
        create=create,
        allow_discard=allow_discard,
        skips_refused=on_error == "skip",
        as_json=as_json,
        target_server=target_server,
    )
    if not run_with_conn(server, lambda conn: copy_events(conn, source, target, options)):
        raise click.exceptions.Exit(1)
