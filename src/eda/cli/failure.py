"""The error of a command that can't do its work, and the exit code of one that was interrupted."""

from __future__ import annotations

import click

__all__ = ["INTERRUPTED", "Failure"]

INTERRUPTED = 130  # the exit code after Ctrl-C


class Failure(click.ClickException):
    """A failure that click prints in one line: the command can't do its work. The exit code is 2."""

    exit_code = 2
