"""`eda pub`: publishes an event, or the events of many lines."""

from __future__ import annotations

from typing import Any

import click

from eda.cli.options import lines_option, server_options

__all__ = ["pub"]


def _text(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """Return a text that an event can have. Raises BadParameter."""
    try:
        (given or "").encode()
    except UnicodeEncodeError:  # Python's form of bytes that are no text
        raise click.BadParameter(f"{given!r} is not UTF-8") from None
    return given


def _id(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    if given == "":
        raise click.BadParameter("it is empty; without the option, the event gets a new id")
    return _text(ctx, param, given)


def _meta(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    meta: dict[str, str] = {}
    for each in given:
        _text(ctx, param, each)
        name, equals, value = each.partition("=")
        if not equals:
            raise click.BadParameter(f"{each!r} is not NAME=VALUE")
        if not name:
            raise click.BadParameter(f"{each!r} has no NAME before the =")
        if name in meta:
            raise click.BadParameter(f"{name!r} is given twice")
        meta[name] = value
    return meta


@click.command()
@click.argument("stream")
@click.argument("data", required=False)
@click.option("--file", type=click.Path(exists=True, dir_okay=False), help="Take the data, or the lines, from a file.")
@click.option("--type", callback=_text, metavar="TYPE", help="The event's type.")
@click.option("--aggregate", callback=_text, metavar="NAME", help="The aggregate that the event belongs to.")
@click.option(
    "--id",
    callback=_id,
    metavar="ID",
    help="The event's id, by which the stream finds duplicates.  [default: a new one]",
)
@click.option("--cause", callback=_text, metavar="ID", help="The id of the event that caused this one.")
@click.option("--schema", callback=_text, metavar="TEXT", help="The version of the payload's schema.")
@click.option("--meta", multiple=True, callback=_meta, metavar="NAME=VALUE", help="Metadata. May be repeated.")
@click.option(
    "--encoding",
    type=click.Choice(["json", "string", "bytes", "nil"]),
    help="What the data is; with nil, the event has none.  [default: json]",
)
@click.option("--lines", is_flag=True, help="Publish many events: one JSON object a line, as `eda tail` prints it.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="With --lines: what to do at a line that is no event, and when an event is refused.",
)
@click.option("--drop-versions", is_flag=True, help="With --lines: publish events of a store as ordinary events.")
@click.option("--create", is_flag=True, help="Create the stream if it does not exist.")
@lines_option
@server_options
def pub(
    stream: str,
    data: str | None,
    file: str | None,
    lines: bool,
    on_error: str,
    drop_versions: bool,
    create: bool,
    as_json: bool,
    encoding: str | None,
    **rest: Any,
) -> None:
    """Publish an event. DATA is its data; with - it is read from standard input.

    An event needs DATA, --file, or --encoding nil, which means that it has no data.

    JSON data must be valid, and is stored as it is given. With --json, the receipt is an object with the fields stream,
    id, sequence, index and duplicate (true: the stream had an event with this id already; null: the server does not
    tell).

    With --lines, each line of standard input or of --file is an object with the fields type, aggregate, id, time,
    cause, client, schema, meta, encoding and data or data_base64. All may be left out. The fields stream, sequence,
    index and ack_time, which `eda tail` prints as well, are not used; other fields are refused. Without an encoding,
    data is JSON. So `eda tail A --json --no-follow | eda pub B --lines` copies a stream. A packed stream gets packs.
    Ctrl-C lets the command finish the events that it is publishing. At the end the command prints how many lines are
    stored; with --json, an object with the fields stream, lines, stored, refused, bad (lines that can't be
    published) and pending (may be stored or not). An event whose id the stream had already counts as stored.

    The exit code is 0 if all is stored, 1 if some lines are not, 2 if nothing can be published, 130 after Ctrl-C, and
    143 after SIGTERM.
    """
    fields = {name: rest.pop(name) for name in ("type", "aggregate", "id", "cause", "schema", "meta")}
    given = [f"--{name}" for name, value in fields.items() if value]
    if data is not None and file is not None:
        raise click.UsageError("DATA and --file both give the data; give only one of them")
    if lines:
        if given or encoding:
            raise click.UsageError(f"with --lines, the lines give what {(*given, '--encoding')[0]} says")
        if data not in (None, "-"):
            raise click.UsageError("with --lines, the lines come from standard input or --file, not from DATA")
        from eda.cli.pub_lines import run_lines

        run_lines(
            stream, file, rest, stops=on_error == "stop", drops_versions=drop_versions, create=create, as_json=as_json
        )
        return
    if drop_versions or on_error != "stop":
        raise click.UsageError(f"{'--drop-versions' if drop_versions else '--on-error'} is for --lines")
    has_data = data is not None or file is not None
    if has_data and encoding == "nil":
        raise click.UsageError("an event of encoding nil has no data")
    if not has_data and encoding != "nil":
        raise click.UsageError("give DATA, --file, - for standard input, or --encoding nil for an event without data")
    from eda.cli.pub_one import run_one

    run_one(stream, data, file, encoding or "json", fields, rest, create=create, as_json=as_json)
