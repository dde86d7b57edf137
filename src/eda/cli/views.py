"""`eda views`: lists, rebuilds and promotes the read models of a database."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from eda.cli.failure import Failure
from eda.cli.options import lines_option, server_options, yes_option

__all__ = ["views"]

REFUSED = 1
MAX_LAG = 100

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class _Refused(click.ClickException):
    """A refusal that click prints: nothing was changed."""

    exit_code = REFUSED


_into_option: Callable[[F], F] = click.option(
    "--into",
    metavar="URL",
    required=True,
    help="The database of the read models: sqlite:///path or postgresql://user@host/database.",
)
_max_lag_option: Callable[[F], F] = click.option(
    "--max-lag",
    type=click.IntRange(min=0),
    default=MAX_LAG,
    show_default=True,
    metavar="EVENTS",
    help="How many events the version may be behind, in each stream.",
)


@click.group()
def views() -> None:
    """List, rebuild and promote the read models that projections keep in a database."""


@views.command("ls")
@click.argument("name", required=False)
@_into_option
@lines_option
@server_options
def list_views(name: str | None, into: str, as_json: bool, **server: Any) -> None:
    """List the read models of a database, or the versions of the one called NAME.

    The command changes nothing. `position` is the last message that is wholly applied. `behind` says how many messages
    of the stream are stored after it, and how old the oldest of them is. A pack is one message. If the projection
    leaves out some types, messages of these types may be counted, too.

    With --json, each version is an object with the fields name, version, current, updated, lag, lag_s and
    streams. The first three say which version it is, and whether views read it. `streams` is a list of objects with the
    fields stream, position, last, lag, lag_s, lanes, updated and problem. `problem` is null, or says why the
    projection can't continue; then lag and lag_s are null. `updated` is the time of the last write in ISO 8601,
    or null if the projection was closed.

    The exit code is 0, or 1 if no projection has this name, or 2 if the database or the server can't be read.
    """
    from eda.cli.view_list import list_versions, print_json, print_table

    found = _run(list_versions(into, name, server))
    if name is not None and not found:
        raise _Refused(f"the database has no read model {name!r}")
    _print(lambda: print_json(found) if as_json else print_table(found))


@views.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--promote", is_flag=True, help="Let views read this version when it has caught up.")
@_max_lag_option
@lines_option
@server_options
def rebuild(function: str, promote: bool, max_lag: int, as_json: bool, **server: Any) -> None:
    """Run a projection until it has caught up with its streams, for example a new version of a read model.

    FUNCTION takes a connection and returns conn.projection(...), for example with version=2. It may be an async
    function. The command imports MODULE, from the current directory first. It connects to the server that the options
    name. The older version can run at the same time.

    The projection has caught up when all events that were stored at the beginning are applied, and at most --max-lag
    newer ones are not. If the command is stopped, the next one continues where it ended.

    With --json, the command prints an object at once, each second, and at the end. They have the fields name, version,
    applied, dead_lettered, position, lag, lag_s, seconds, done and promoted. `applied` and `dead_lettered` count
    events of this run. `position` and `lag` are sums over all streams.

    The exit code is 0 if the projection has caught up, 1 if it was not promoted because it lags or because events
    failed, 2 if the projection failed, 130 after Ctrl-C, and 143 after SIGTERM.
    """
    from eda.cli.rebuilding import NotPromoted, rebuild_view

    try:
        _run(rebuild_view(function, server, promote=promote, max_lag=max_lag, as_json=as_json))
    except NotPromoted as error:
        raise _Refused(str(error)) from None


@views.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@_into_option
@_max_lag_option
@yes_option
@lines_option
@server_options
def promote(name: str, version: int, into: str, max_lag: int, yes: bool, as_json: bool, **server: Any) -> None:
    """Let views of NAME read this version.

    The switch is one transaction. It is refused if the version is too far behind its streams. If the projection leaves
    out some types and does not run now, events of these types count, too.

    With --json, the command prints an object with the fields name, version, previous, changed, lag and lag_s.

    The exit code is 0 if views now read this version, 1 if the switch was refused, and 2 if the database or the server
    can't be used.
    """
    from eda.cli.output import confirm
    from eda.cli.view_promotion import Refusal, examine, print_promoted, switch

    try:
        found = _run(examine(into, name, version, max_lag, server))
        if not yes and not found.is_current:
            question = f"Let views of {name} read version {version}"
            question += f" instead of version {found.previous}?" if found.previous is not None else "?"
            confirm(question, yes=False)
        changed = _run(switch(into, name, version))
    except Refusal as error:
        raise _Refused(str(error)) from None
    _print(lambda: print_promoted(found, changed, as_json))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, and turn its errors into messages of the command line."""
    from eda.cli.ending import run_to_end
    from eda.cli.view_sink import DatabaseFailed
    from eda.errors import EdaError

    return run_to_end(work, (EdaError, DatabaseFailed, OSError), Failure)


def _print(show: Callable[[], None]) -> None:
    from eda.cli.ending import print_to_end

    print_to_end(show, Failure)
