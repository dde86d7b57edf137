"""docs/cli.md has every command and every option of `eda`."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from eda.cli.options import server_options
from support.cli.tree import COMMANDS

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "cli.md"
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S))


@click.command()
@server_options
def connects() -> None:
    pass


SHARED = {option for parameter in connects.params for option in parameter.opts}
# What these do is said once, for all commands.
OF_EVERY_COMMAND = SHARED | {"--help", "-h", "--json", "--yes"}


every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def section_of(path: tuple[str, ...]) -> str:
    return SECTIONS[f"eda {path[0]}"]


def test_document_when_compared_with_the_command_line_has_a_section_for_each_command() -> None:
    written = {title for title, body in SECTIONS.items() if title.startswith("eda ") and body.strip()}
    assert sorted(written) == sorted({f"eda {path[0]}" for path in COMMANDS})


def test_document_when_read_tells_how_to_name_a_server() -> None:
    text = SECTIONS["Which server"]
    assert sorted(option for option in SHARED if f"`{option} " not in text) == []
    general = SECTIONS["What commands print"]
    assert "`--json`" in general
    assert "`--yes`" in general


@every_command
def test_document_when_read_has_the_command(path: tuple[str, ...]) -> None:
    assert re.search(rf"\beda {' '.join(path)}\b", section_of(path))


@every_command
def test_document_when_read_has_every_option(path: tuple[str, ...]) -> None:
    text = section_of(path)
    missing = []
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option):
            names = [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]
            missing += [name for name in names if name not in OF_EVERY_COMMAND and not re.search(rf"{name}\b", text)]
    assert missing == []


@every_command
def test_document_when_read_names_no_option_that_does_not_exist(path: tuple[str, ...]) -> None:
    known = set(OF_EVERY_COMMAND)
    for other, command in COMMANDS.items():
        if other[0] == path[0]:
            known |= {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    # An option of another command stands behind its name.
    text = re.sub(rf"\beda (?!{path[0]}\b)[^`|\n]*", "", section_of(path))
    assert sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - known) == []


@every_command
def test_help_when_read_says_what_the_command_does_and_what_each_option_is(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert command.help
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    assert [option.name for option in options if not option.help] == []
