"""`eda schema`: exports the schemas of payload classes, and compares two exported files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eda.cli.failure import Failure

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["schema"]


@click.group()
def schema() -> None:
    """Export the schemas of your payload classes, and check that a change breaks no reader."""


@schema.command()
@click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["json-schema", "asyncapi"]),
    default="json-schema",
    show_default=True,
    help="`eda schema check` reads both.",
)
@click.option("--stream", metavar="NAME", help="asyncapi: the stream of these events.")
@click.option("--title", default="Events", show_default=True, help="asyncapi: the title of the document.")
@click.option("--api-version", default="1.0.0", show_default=True, help="asyncapi: the version of the document.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=str),
    help="The file to write. [default: standard output]",
)
def export(
    modules: tuple[str, ...], format_: str, stream: str | None, title: str, api_version: str, output: str | None
) -> None:
    """Write the schemas of all payload classes that the modules declare.

    MODULE is a name as in `import shop.events`; the current directory is searched first. The command imports the
    modules, and so runs their code. The exit code is 2 if that fails.
    """
    from pathlib import Path

    from click.core import ParameterSource

    from eda.cli.modules import import_modules
    from eda.errors import ConfigError
    from eda.names import STREAM_NAME
    from eda.schemas.asyncapi import asyncapi_of
    from eda.schemas.document import declared_types, document_of

    if format_ != "asyncapi":
        given = click.get_current_context().get_parameter_source
        for name in ("stream", "title", "api_version"):
            if given(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --format asyncapi")
    if stream is not None and not STREAM_NAME.fullmatch(stream):
        raise click.BadParameter(f"{stream!r} can't be the name of a stream", param_hint="--stream")
    try:
        import_modules(modules)
        types = declared_types()
    except ConfigError as error:
        raise Failure(str(error)) from error
    if not types:
        raise Failure(f"no class is declared with eda.payload in {', '.join(modules)}, nor in what they import")
    if format_ == "asyncapi":
        text = _text(asyncapi_of(types, title=title, version=api_version, stream=stream))
    else:
        text = _text(document_of(types))
    if output is None:
        _print(text)
        return
    try:
        _write(Path(output), text)
    except OSError as error:
        raise Failure(f"{output} can't be written: {error.strerror}") from error


@schema.command()
@click.argument("old", type=click.Path(path_type=str))
@click.argument("new", type=click.Path(path_type=str))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")
def check(old: str, new: str, as_json: bool) -> None:
    """Compare two files of `eda schema export`: that of the running release, and that of the next one.

    New readers must read all stored events. Old readers must read new events, unless the schema id is a new one. The
    exit code is 0 if both hold, 1 if a reader breaks, and 2 if a file can't be read.
    """
    from pathlib import Path

    from eda.errors import ConfigError
    from eda.schemas.compatibility import compare, is_breaking

    before, after = (_types_in(Path(name)) for name in (old, new))
    try:
        findings = compare(before, after)
    except ConfigError as error:
        raise Failure(str(error)) from error
    is_compatible = not is_breaking(findings)
    if as_json:
        report = {"compatible": is_compatible, "findings": [finding.to_dict() for finding in findings]}
        _print(_text(report))
    else:
        verdict = "compatible" if is_compatible else "not compatible"
        _print("".join(f"{line}\n" for line in (*findings, verdict)))
    click.get_current_context().exit(0 if is_compatible else 1)


def _write(path: Path, text: bytes) -> None:
    """Write a whole file, or leave the old one as it was."""
    import os

    if path.exists() and not path.is_file():  # such as /dev/stdout
        path.write_bytes(text)
        return
    path = path.resolve()  # a link stays a link
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _print(text: str | bytes) -> None:
    import sys

    if isinstance(text, str):  # a terminal may not have all characters
        text = text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:  # click ends the program
        raise
    except OSError as error:  # such as a full disk; the exit code 1 would say that a reader breaks
        raise Failure(f"standard output can't be written: {error.strerror}") from error


def _types_in(path: Path) -> dict[str, Any]:
    from eda.errors import ConfigError
    from eda.schemas.reading import read_types

    try:
        return read_types(path.read_bytes())
    except OSError as error:
        raise Failure(f"{path} can't be read: {error.strerror}") from error
    except ConfigError as error:
        raise Failure(f"{path} can't be read: {error}") from error


def _text(document: Any) -> bytes:
    """Return the document as JSON in UTF-8, whatever the encoding of the terminal is."""
    import json

    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
