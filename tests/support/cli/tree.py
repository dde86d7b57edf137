"""All commands of `eda`, and arguments with which each can be called."""

from __future__ import annotations

from collections.abc import Iterator

import click

from eda.cli import main

__all__ = ["COMMANDS", "arguments_of", "connects"]

# By the name of a parameter that a command needs: a value. The text of any other is "x".
_VALUES = {
    "addr": "nats://127.0.0.1:1",
    "aggregate": "a",
    "function": "module:function",
    "into": "sqlite:///nowhere/views.db",
    "modules": "eda.errors",
    "name": "billing",
    "sequence": "1",
    "shell": "bash",
    "source": "orders",
    "stream": "orders",
    "streams": "orders",
    "target": "copies",
    "version": "1",
}

# What a command needs besides: options of which it takes one.
_CHOICES = {("dead", "drop"): ["--all"], ("graph",): ["--dot"], ("pub",): ["x"], ("subs", "rewind"): ["--first"]}


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS: dict[tuple[str, ...], click.Command] = dict(_commands(main))  # type: ignore[arg-type]
"""Every command that does something, by its name in words."""


def connects(path: tuple[str, ...]) -> bool:
    """Return whether the command takes the options that say which server it uses."""
    return any(each.name == "connect_timeout_s" for each in COMMANDS[path].params)


def arguments_of(path: tuple[str, ...]) -> list[str]:
    """Return the command's name, and values for all parameters that it needs. If it would ask, --yes is among them."""
    words = [*path, *_CHOICES.get(path, ())]
    for each in COMMANDS[path].params:
        value = _VALUES.get(each.name or "", "x")
        if isinstance(each, click.Option) and each.required:
            words += [each.opts[0], value]
        elif isinstance(each, click.Option) and each.name == "yes":
            words.append("--yes")
        elif isinstance(each, click.Argument) and each.required:
            words.append(value)
    return words
