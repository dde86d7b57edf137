"""A click group that imports the module of a command when the command is used, so that `eda` answers quickly.

It also sees to standard input and output that are closed or full, and to Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from eda.cli.failure import INTERRUPTED

__all__ = ["LazyGroup"]

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))

_COMPLETING = "_EDA_COMPLETE"  # a shell sets it when it asks for completions


class LazyGroup(click.Group):
    """A group whose commands are in modules of their own. `modules`: by the name of a command, `module:attribute`."""

    def __init__(self, *arguments: Any, modules: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._modules = dict(modules or {})

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """Return the context of a call. Ctrl-C ends the program with its exit code."""
        with _interruptible():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Ctrl-C ends the program with its exit code, also before the command has begun."""
        with _interruptible():
            return super().invoke(ctx)

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

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run the command line, as `click.Group.main` does. If the output can't be written, say so and exit with 2."""
        _replace_closed()
        if _COMPLETING in os.environ:
            self._complete(*arguments, **settings)
        try:
            return super().main(*arguments, **settings)
        except OSError as error:
            if error.errno not in _FULL or error.filename is not None:
                raise
            _discard_output()
            click.echo(f"Error: standard output can't be written: {error.strerror}", err=True)
            sys.exit(2)

    def _complete(self, *arguments: Any, **settings: Any) -> None:
        """Answer a shell, and end the process at once: a thread may still wait for a name server."""
        from eda.cli.shells import add_shells

        add_shells()
        try:
            super().main(*arguments, **settings)
        except SystemExit as ending:
            sys.stdout.flush()
            os._exit(ending.code if isinstance(ending.code, int) else 1)


def _replace_closed() -> None:
    """Let standard streams that the shell has closed (`>&-`) be empty files: Python has None in their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _discard_output() -> None:
    """Forget what is not written: otherwise Python tries again at its end, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise Exit (130) for Ctrl-C: click would print "Aborted!" and give 1, the exit code of the answer no."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
