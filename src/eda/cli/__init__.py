"""The `eda` command. It needs the extra eda-fast[cli]; without it the command says so.

It is a user of the package like any other, and offers nothing to the other wings.

`eda --help` imports click, but neither rich nor a connection: a command imports what it runs when it runs.

Files, each below those that import it:

    limits    how many events, how small payloads
    check     whether all that was published arrived
    work      what the two processes of a run are asked to do; the events, made and taken in
    sides     the two processes of a run, seen from their parent
    report    the figures of a run by name, and the table of them
    show      a run as its user sees it: bars, errors, exit code
    options   the options that both commands have
    bench     `eda bench`: its options
    demo      `eda demo`: its options
    worker    one of the two processes: publishes or handles
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from eda._version import __version__

__all__ = ["main"]

_NEEDED = ("click", "rich")


def _refuse() -> None:
    """End with one line that says what to install."""
    missing = " and ".join(name for name in _NEEDED if find_spec(name) is None)
    sys.exit(f"eda: the command line needs {missing}: pip install 'eda-fast[cli]'")


def _make_main() -> Callable[..., Any]:
    """Return the click group, or what stands in for it where click or rich is missing."""
    if any(find_spec(name) is None for name in _NEEDED):
        return _refuse
    import click

    from eda.cli.bench import bench
    from eda.cli.demo import demo

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, prog_name="eda")
    def group() -> None:
        """Event-driven architectures on NATS JetStream."""

    group.add_command(bench)
    group.add_command(demo)
    return group


main = _make_main()
