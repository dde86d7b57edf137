"""`eda context`: the contexts of the nats command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eda.cli.options import lines_option

if TYPE_CHECKING:
    from eda.cli.contexts import Context
    from eda.cli.failure import Failure

__all__ = ["context"]


@click.group()
def context() -> None:
    """Show the contexts of the nats command line, which `--context` takes.

    A context is a file with the address of a server and the credentials for it. The nats command line makes and
    selects contexts. eda reads them, and changes nothing.
    """


@context.command("ls")
@lines_option
def ls(as_json: bool) -> None:
    """List the contexts.

    A JSON object has the fields name, selected (whether commands use it if nothing else names a server), url (without
    credentials), login (the setting with which it logs in, or null), description, usable (whether eda can use it) and
    problem (why not, or null).
    """
    from eda.cli.contexts import context_directory, context_names, selected_context
    from eda.cli.output import print_json, safe
    from eda.cli.tables import Column, print_rows

    selected = selected_context()
    rows = [_row(name, selected) for name in context_names()]
    if as_json:
        for row in rows:
            print_json(row)
        return
    if not rows:
        click.echo(f"there are no contexts in {safe(str(context_directory()))}", err=True)
        return
    columns = (
        Column(""),
        Column("name", is_name=True),
        Column("url", elastic=20, drop=1),
        Column("login", drop=2),
        Column("description", elastic=40),
    )
    cells = []
    for row in rows:
        last = row["description"] or "" if row["usable"] else f"eda can't use it: {row['problem']}"
        shown = ("*" if row["selected"] else "", row["name"], row["url"] or "", row["login"] or "", last)
        cells.append([safe(text) for text in shown])
    print_rows(columns, cells)


@context.command("show")
@click.argument("name", required=False)
@lines_option
def show(name: str | None, as_json: bool) -> None:
    """Show a context: the one of this name, or the selected one. Passwords and tokens are not shown.

    The JSON object has the fields of `eda context ls`, and path (of its file), settings (the names of all its settings
    that are not empty), user, credentials, nkey, tls_ca, tls_cert, tls_key (paths of files), and cluster. Fields that
    the context does not have are null.

    The exit code is 0 if eda can use the context, 1 if it can't, and 2 if there is no such context.
    """
    from eda.cli.contexts import NoContext, context_directory, read_context, selected_context
    from eda.cli.failure import Failure
    from eda.cli.output import print_json, safe

    selected = selected_context()
    if name is None and selected is None:
        raise Failure("the nats command line has selected no context: name one")
    name = name or selected or ""
    arguments: dict[str, Any] = {}
    try:
        found = read_context(name)
        row = _fields(found, selected) | {"path": str(found.path), "settings": sorted(found.fields)}
        if row["usable"]:
            arguments = found.arguments()
    except NoContext:
        raise
    except Failure as error:  # its file is damaged
        path = context_directory() / f"{name}.json"
        row = _damaged(name, selected, error) | {"path": str(path), "settings": None}
    row |= {each: arguments.get(each) for each in ("user", "credentials", "nkey", "tls_ca", "tls_cert", "tls_key")}
    row["cluster"] = arguments.get("cluster")
    if as_json:
        print_json(row)
    else:
        for field, value in row.items():
            if value not in (None, "", []):
                text = ", ".join(value) if isinstance(value, list) else {True: "yes", False: "no"}.get(value, value)
                click.echo(f"{field:<12} {safe(str(text))}")
    if not row["usable"]:
        raise click.exceptions.Exit(1)


def _row(name: str, selected: str | None) -> dict[str, Any]:
    from eda.cli.contexts import read_context
    from eda.cli.failure import Failure

    try:
        return _fields(read_context(name), selected)
    except Failure as error:
        return _damaged(name, selected, error)


def _damaged(name: str, selected: str | None, error: Failure) -> dict[str, Any]:
    """Return what both commands show of a context that can't be read."""
    unknown = dict.fromkeys(("url", "login", "description"))
    return {"name": name, "selected": name == selected, **unknown, "usable": False, "problem": error.message}


def _fields(found: Context, selected: str | None) -> dict[str, Any]:
    """Return what both commands show of a context. Raises Failure if its address is not a text."""
    from eda.cli.failure import Failure

    problem = None
    try:
        found.arguments()
    except Failure as error:
        problem = error.message
    return {
        "name": found.name,
        "selected": found.name == selected,
        "url": found.shown_url(),
        "login": found.login(),
        "description": found.text("description"),
        "usable": problem is None,
        "problem": problem,
    }
