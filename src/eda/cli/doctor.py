"""`eda doctor`: what will bite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eda.cli.options import lines_option, server_options

if TYPE_CHECKING:
    import eda

__all__ = ["doctor"]

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}


@click.command()
@click.argument("streams", metavar="[STREAM]...", nargs=-1)
@click.option(
    "--at-least",
    type=click.Choice(list(_STYLES)),
    default="ok",
    show_default=True,
    help="Show only findings that are at least as severe.",
)
@lines_option
@server_options
def doctor(streams: tuple[str, ...], at_least: str, as_json: bool, **server: Any) -> None:
    """Look for what will bite: in the server, the account, streams and subscriptions.

    Without STREAM, all streams are examined that hold events of eda. Nothing is changed on the server.

    A finding is `ok`, a `note` (good to know), a `warning` (it will bite in a situation that may come), or a `problem`
    (events are lost, refused or not handled, now or soon).

    A JSON object has the fields severity, check (a word that does not change between versions), stream and subscription
    (null: the finding is about the server or the account, or about the whole stream), message, and advice (null:
    nothing is to be done).

    The exit code is 0 if there is no problem, 1 if there is one, also one that --at-least hides, and 2 if the server
    can't be examined.
    """
    from dataclasses import asdict

    from eda.cli.ending import print_to_end
    from eda.cli.failure import Failure
    from eda.cli.output import print_json
    from eda.cli.session import run_with_conn

    async def examine(conn: eda.Conn) -> list[eda.Finding]:
        return await conn.diagnose(streams or None)

    findings = run_with_conn(server, examine)
    order = list(_STYLES)
    shown = [each for each in findings if order.index(each.severity) >= order.index(at_least)]

    def show() -> None:
        if not as_json:
            _print(shown, findings)
            return
        for each in shown:
            print_json(asdict(each))

    print_to_end(show, Failure)
    if any(each.severity == "problem" for each in findings):
        raise click.exceptions.Exit(1)


def _print(shown: list[eda.Finding], findings: list[eda.Finding]) -> None:
    """Print the findings for people, under a line for each stream, and their numbers at the end."""
    from rich.table import Table
    from rich.text import Text

    from eda.cli.output import console, safe

    out = console()

    def put(severity: str, *parts: tuple[str, str]) -> None:
        """Print a severity and a text beside it, whose lines begin below each other on a terminal."""
        first = Text(f"  {severity:<8}", _STYLES.get(severity, ""))
        text = Text.assemble(*((safe(part), style) for part, style in parts))
        if out.is_terminal:
            grid = Table.grid()
            grid.add_column(width=10)
            grid.add_column(overflow="fold")
            grid.add_row(first, text)
            out.print(grid)
        else:
            out.print(first + text, soft_wrap=True)

    about: str | None = ""
    for each in shown:
        if each.stream != about:
            about = each.stream
            out.print(Text(safe(f"stream {about}") if about else "server and account", "bold"), soft_wrap=True)
        who = f"{each.subscription}: " if each.subscription else ""
        put(each.severity, (who, "bold"), (each.message, ""))
        if each.advice:
            put("", (f"> {each.advice}", "dim"))
    numbers = []
    for name in reversed(_STYLES):
        number = sum(each.severity == name for each in findings)
        numbers.append(f"{number} {name}{'s' if number != 1 and name != 'ok' else ''}")
    out.print(Text(", ".join(numbers), "bold"), soft_wrap=True)
