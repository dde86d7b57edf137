"""The `eda` command. It needs the extra eda-fast[cli]; without the extra it says what to install.

It uses the package as any other program does, and offers nothing to the other wings.

`eda` imports the module of a command when the command is used. Such a module imports only click and other small files
at its top, and all else when the command runs, so that `eda --help` is fast.

Files, each after the files that it imports:

    limits          the largest number of events, and the smallest payloads
    check           checks whether every published event arrived
    work            what a run does: the options for its two processes, its events, and the checks of received events
    sides           starts and watches the two processes of a run
    report          the figures of a run, by name and as a table
    columns         columns of progress bars
    failure         the error of a command that can't do its work, and the exit code after Ctrl-C
    values          the kinds of values that options take: durations, times, sizes
    option_names    errors about arguments of Python, told with the options of the command
    ending          how a command ends: by itself, by a signal, or by an error
    output          lines of JSON, texts that are safe on a terminal, and questions
    tables          tables that fit the terminal
    contexts        which server a command uses: options, environment, contexts of the nats command line
    session         runs a command that needs a connection
    completing      completes names of streams, subscriptions and contexts
    shells          the scripts by which shells ask for completions
    groups          a group that imports a command when it is used
    lookup          runs a command about a stream or a subscription that may not exist
    sub_list        `eda subs ls` and `eda subs info`
    sub_changes     `eda subs rewind`, `reset` and `rm`
    lag_table       `eda lag`: how far subscriptions are behind, once or again and again
    top_rates       two looks at streams and subscriptions, and the rates between them
    top_table       `eda top`: shows the rates
    stream_list     `eda streams ls` and `eda streams info`
    stream_changes  `eda streams create`, `update`, `purge` and `rm`
    show            runs the work and shows it: progress bars, errors, exit code
    options         the options that several commands have
    streams         `eda streams` and its options
    subs            `eda subs` and its options
    lag             `eda lag` and its options
    top             `eda top` and its options
    bench           `eda bench` and its options
    demo            `eda demo` and its options
    modules         imports the modules that a user names
    schema          `eda schema export` and `eda schema check`
    printable       lines of JSON as a terminal may show them
    history         prints stored events, for people or as JSON
    store           `eda store cat`
    line_writer     writes to standard output without stopping the event loop
    tailing         reads and prints the events of `eda tail`
    tail            `eda tail` and its options
    line_events     events from lines of JSON
    blocks          reads a file or standard input in blocks of whole lines
    line_publisher  publishes the events of many lines, and counts what became of them
    pub_one         publishes one event
    pub_lines       publishes many lines, shows the progress, and prints the summary
    pub             `eda pub` and its options
    dead_list       `eda dead ls`: a line for each dead letter, or how many each subscription has
    dead_show       `eda dead show`: all of one dead letter
    dead_changes    `eda dead replay` and `eda dead drop`
    dead            `eda dead` and its options
    places          places in streams, as options name them, and the options for the events that a command reads
    event_range     reads the events of a range of a stream, in lists
    targets         whether a stream can hold a copy of the events of another
    transfer        publishes the events of a range into another stream, and counts what becomes of them
    resuming        where an interrupted copy has to continue
    transfer_bar    the progress bar of a copy or a replay
    copying         checks both streams, copies or resumes, and reports
    copy            `eda copy` and its options
    pacing          the pace of a replay
    replaying       publishes the events of a range again, or prints them
    replay          `eda replay` and its options
    graph_events    the events of a graph: read from streams, and chosen by what caused them
    graph_text      a graph as DOT or Cypher
    graph_layout    where the events of a graph are drawn
    graph_page      the style and the script of the page that shows a graph
    graph_html      a graph as one HTML page
    graphing        reads streams, and writes their graph
    graph           `eda graph` and its options
    view_sink       opens the database of read models
    view_lag        how far a version of a read model is behind its streams
    view_list       `eda views ls`: reads the versions, and prints them
    view_promotion  `eda views promote`
    rebuilding      `eda views rebuild`: runs the user's projection and shows how far it is
    views           `eda views` and its options
    relaying        runs the relay of an outbox
    outbox          `eda outbox relay`
    doctor          `eda doctor`
    completion      `eda completion`
    context         `eda context ls` and `eda context show`
    server          `eda server`
    worker          one of the two processes: it publishes or handles
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from eda._version import __version__

__all__ = ["main"]

_NEEDED = ("click", "rich")
_INTERRUPTED = 130  # as in `failure`, which needs click

# By the name of a command: its module and its name there.
_COMMANDS = {
    name: f"eda.cli.{name}:{name}"
    for name in (
        "bench",
        "completion",
        "context",
        "copy",
        "dead",
        "demo",
        "doctor",
        "graph",
        "lag",
        "outbox",
        "pub",
        "replay",
        "schema",
        "server",
        "store",
        "streams",
        "subs",
        "tail",
        "top",
        "views",
    )
}


def _refuse() -> None:
    """Exit with one line that says what to install."""
    missing = " and ".join(name for name in _NEEDED if find_spec(name) is None)
    sys.exit(f"eda: the command line needs {missing}: pip install 'eda-fast[cli]'")


def _make_main() -> Callable[..., Any]:
    """Return the click group, or `_refuse` if click or rich is missing."""
    if any(find_spec(name) is None for name in _NEEDED):
        return _refuse
    import click

    from eda.cli.groups import LazyGroup

    @click.group(cls=LazyGroup, modules=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, prog_name="eda")
    def group() -> None:
        """Event-driven architectures on NATS JetStream."""

    return group


try:
    main: Callable[..., Any] = _make_main()
except KeyboardInterrupt:  # Ctrl-C right after the start; later ones are handled where the command runs
    print("interrupted", file=sys.stderr)
    sys.exit(_INTERRUPTED)
