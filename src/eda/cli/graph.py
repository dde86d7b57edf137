"""`eda graph` and its options."""

from __future__ import annotations

from typing import Any

import click

from eda.cli.options import server_options
from eda.cli.places import Chosen, Place, choosing_options

__all__ = ["graph"]

LIMIT = 1000  # events of a page
MAX_ON_PAGE = 5000


@click.command()
@click.argument("streams", metavar="STREAM...", nargs=-1, required=True)
@click.option(
    "--html", "html_file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True), help="Write a page."
)
@click.option("--dot", is_flag=True, help="Print DOT, for Graphviz: this is the default.")
@click.option("--cypher", is_flag=True, help="Print Cypher, for a graph database.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one event a line.")
@click.option("--output", "-o", metavar="FILE", type=click.Path(dir_okay=False), help="Write into a file.")
@click.option("--id", "event_id", metavar="ID", help="Only this event, what led to it, and what it led to.")
@choosing_options
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Only the newest N events.  [default: with --html {LIMIT:,}, at most {MAX_ON_PAGE:,}; else all]",
)
@server_options
def graph(
    streams: tuple[str, ...],
    html_file: str | None,
    dot: bool,
    cypher: bool,
    as_json: bool,
    output: str | None,
    event_id: str | None,
    chosen: Chosen,
    limit: int | None,
    **server: Any,
) -> None:
    """Show which events of one or several STREAMs led to which, by the causes that the events name.

    Choose a form. --html writes one page that needs no network: a drawing with a search, and the details of each
    event. --dot prints a graph for Graphviz, such as `eda graph orders | dot -Tsvg`. --cypher prints statements
    for a graph database: nodes (:Event {id}) with the relation [:CAUSED]. --json prints an object for each event, with
    the fields id, cause, type, aggregate, stream, place ("7", or "7.3" for an event of a pack), time and client.

    A cause that is not among the chosen events is shown by its id alone. With several streams, --from and --to must be
    times. The command changes nothing on the server. In a stream with retention `interest` or `workqueue` it shows the
    events that are stored now.

    With --id, all events of the range are searched, at most 100,000.

    The exit code is 0, or 1 if no event has the id of --id, or 2 if the graph can't be read or written.
    """
    from eda.cli.graphing import GraphOptions, write_graph
    from eda.cli.session import run_with_conn

    if sum((html_file is not None, dot, cypher, as_json)) > 1:
        raise click.UsageError("Choose one form: --html FILE, --dot, --cypher or --json.")
    if "" in (html_file, output):
        raise click.UsageError(f"{'--html' if html_file == '' else '--output'} needs the name of a file.")
    if html_file is not None and output is not None:
        raise click.UsageError("--html names the file already: leave out --output.")
    streams = tuple(dict.fromkeys(streams))  # a stream that is named twice is read once
    if len(streams) > 1 and any(isinstance(each, Place) for each in (chosen.first, chosen.last)):
        raise click.UsageError("With several streams, --from and --to must be times: sequences differ.")
    if html_file is not None:
        limit = LIMIT if limit is None else limit
        if limit > MAX_ON_PAGE:
            raise click.UsageError(f"A page has at most {MAX_ON_PAGE:,} events. Use --dot or --cypher for more.")
    options = GraphOptions(
        chosen=chosen,
        event_id=event_id,
        limit=limit,
        form="html" if html_file is not None else "cypher" if cypher else "json" if as_json else "dot",
        output=html_file or output or "-",
    )
    if not run_with_conn(server, lambda conn: write_graph(conn, streams, options)):
        raise click.exceptions.Exit(1)
