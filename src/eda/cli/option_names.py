"""Errors about arguments of Python, told with the options of the command that the user has typed."""

from __future__ import annotations

import re

import click
from click.core import ParameterSource

from eda.cli.values import may_be_none
from eda.errors import ConfigError

__all__ = ["told"]

# Arguments whose option has another name.
_ALIASES = {"sequences": "--seq", "start": "--from", "types": "--type"}

# How errors call kinds of values, and what users of a command call them.
_KINDS = {"an int": "a whole number", "a str": "a text", "'end' waits": "--end waits"}

_QUOTED = r"(?<!\w)'(?:[^'\\]|\\.)*'(?!\w)"


def told(error: BaseException) -> str:
    """Return the text of an error in one line. The names of arguments become options of the command that runs.

    Only an error about an argument is changed, and only if the command has an option for it. Texts in quotes stay.
    """
    text = " ".join(str(error).split())
    context = click.get_current_context(silent=True)
    if not isinstance(error, ConfigError) or error.argument is None or context is None:
        return text
    options = _options_of(context.command)
    if error.argument not in options:
        return text
    about = options[error.argument]
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    if begin := re.match(rf"(?:{names})(?: and (?:{names}))*(?=[ :])", text):
        subjects = begin[0].split(" and ")
        # The value may come from the environment or a context. Then the user has typed no option.
        if error.argument in subjects and any(_is_typed(context, options[each]) for each in subjects):
            text = " and ".join(_written(options[each]) for each in subjects) + text[begin.end() :]
    compound = "|".join(name for name in options if "_" in name) or "(?!)"
    text = re.sub(
        rf"(?P<quoted>{_QUOTED})|(?<![\w.-])(?P<set>{names})=(?P<value>{_QUOTED}|[^\s,;:)]+)|"
        rf"(?<![\w.-])(?P<name>{compound})\b",
        lambda found: _replaced(found, options),
        text,
    )
    text = re.sub(",? or None", " or none" if may_be_none(about.type) else "", text)
    if about.metavar == "DURATION":
        text = text.replace("must be a number,", "must be a number of seconds,")
    for ours, theirs in _KINDS.items():
        text = re.sub(rf"(?<!\w){ours}(?!\w)", theirs, text)
    return text


def _options_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options by the names that arguments of Python may have."""
    found: dict[str, click.Option] = {}
    written: dict[str, click.Option] = {}
    for each in command.params:
        if isinstance(each, click.Option):
            for name in each.opts:
                written[name] = each
                if name.startswith("--"):
                    found[name[2:].replace("-", "_")] = each
    by_name = {each.name: each for each in written.values() if each.name is not None}
    aliases = {name: written[option] for name, option in _ALIASES.items() if option in written}
    return found | aliases | by_name


def _is_typed(context: click.Context, option: click.Option) -> bool:
    return context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE


def _written(option: click.Option) -> str:
    return max(option.opts, key=len)


def _replaced(found: re.Match[str], options: dict[str, click.Option]) -> str:
    if found["quoted"] is not None:
        return found["quoted"]
    option = options[found["name"] or found["set"]]
    name, value = _written(option), found["value"]
    if value is None or value == "True":
        return name
    if value == "False":
        return option.secondary_opts[0] if option.secondary_opts else f"no {name}"
    if value == "None":
        return f"{name}=none" if may_be_none(option.type) else f"no {name}"
    if option.metavar == "DURATION" and re.fullmatch(r"\d+(\.\d+)?", value):
        value = f"{float(value):.15g}s"
    return f"{name}={value.strip(chr(39))}"
