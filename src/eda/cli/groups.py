"""A click group that imports the module of a command when the command is used, so that `eda` answers quickly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

__all__ = ["LazyGroup"]

_COMPLETING = "_EDA_COMPLETE"  # a shell sets it when it asks for completions


class LazyGroup(click.Group):
    """A group whose commands are in modules of their own. `modules`: by the name of a command, `module:attribute`."""

    def __init__(self, *arguments: Any, modules: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._modules = dict(modules or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*self._modules, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name after the import of its module; None: there is no such command."""
        where = self._modules.get(cmd_name)
        if where is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = where.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        if _COMPLETING in os.environ:
            from eda.cli.completing import complete_names

            complete_names(command)
        return command
