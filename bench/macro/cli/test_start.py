"""How soon the command line answers: help and completion, and the first output of each command that connects.

Each command is a process of its own, in turn with `python -c pass`, which says how busy the machine is. The modules are
compiled beforehand, as pip does when it installs a package. Output is what comes on standard output or standard error.
`eda top` is on a terminal: elsewhere, it prints nothing before it has looked twice.
"""

from __future__ import annotations

import itertools
import os
import pty
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

import eda
from eda.cli import main
from macro.cli.scene import CONNECTING, make_spare, scene

ROUNDS = 15

HELP_MS = 150.0
CONNECTED_MS = 350.0

# They have the options of a connection, and work for a while before there is a figure to print.
WORKING = {"bench", "demo"}

HOW = ("-c", "from eda.cli import main; main(prog_name='eda')")  # as the script `eda` does
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def connecting(
    environment: dict[str, str], server: eda.EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The environment of commands whose server and database have something to answer."""
    with scene(server, environment, tmp_path_factory.mktemp("start")) as made:
        yield made


def first_output_ms(environment: dict[str, str], *arguments: str, on_terminal: bool = False) -> float:
    """Return how long a Python process takes until it writes something, or until it has ended without."""
    near, far = pty.openpty() if on_terminal else os.pipe()
    with open(near, "rb", buffering=0) as output:
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=far, stderr=far, env=environment
        ) as process:
            os.close(far)
            first = output.read(1)
            took = time.perf_counter() - began
            if arguments != ("-c", "pass"):
                assert first, arguments
                process.terminate()  # so that a command that holds something gives it up
            rest = b"" if on_terminal else output.read()
            assert process.wait() in (0, 1, 143, -signal.SIGTERM), (first + rest).decode()
    return took * 1000


@pytest.fixture
def measured(benchmark: Any, note: Callable[[str, float], None]) -> Callable[..., None]:
    """Measure what a command needs until its first output, in turn with an empty Python process."""

    def measure(name: str, limit_ms: float, environment: dict[str, str], *arguments: str) -> None:
        ours: list[float] = []
        empty: list[float] = []

        def run() -> None:
            n = next(_numbers)
            if any("spare" in each for each in arguments):
                make_spare(environment["EDA_URL"], n)
            database = environment.get("EDA_BENCH_DATABASE", "")
            given = [each.format(n=n, database=database) for each in arguments]
            empty.append(first_output_ms(environment, "-c", "pass"))
            ours.append(first_output_ms(environment, *HOW, *given, on_terminal=given[:1] == ["top"]))

        benchmark.pedantic(run, rounds=ROUNDS if benchmark.enabled else 1, iterations=1, warmup_rounds=2)
        took = statistics.median(ours[2:])
        note(f"eda {name} ms", took)
        note(f"python -c pass beside eda {name} ms", statistics.median(empty[2:]))
        note(f"allowed {limit_ms:g} ms", limit_ms)
        benchmark.extra_info["ms"] = took

    return measure


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["bench", "--help"]], ids=" ".join)
def test_help(measured: Callable[..., None], environment: dict[str, str], arguments: list[str]) -> None:
    measured(" ".join(arguments), HELP_MS, environment, *arguments)


def test_completion(measured: Callable[..., None], environment: dict[str, str]) -> None:
    asked = {"_EDA_COMPLETE": "bash_complete", "COMP_WORDS": "eda do", "COMP_CWORD": "1"}
    measured("completion", HELP_MS, environment | asked)


def connecting_commands(group: click.Group = main, path: str = "") -> Iterator[str]:  # type: ignore[assignment]
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from connecting_commands(command, f"{path}{name} ")
        elif command is not None and any(each.name == "connect_timeout_s" for each in command.params):
            yield f"{path}{name}"


def test_every_command_that_connects_is_timed() -> None:
    timed = {name.partition(",")[0] for name in CONNECTING}
    assert timed == set(connecting_commands()) - WORKING


@pytest.mark.parametrize("name", CONNECTING)
def test_first_output(measured: Callable[..., None], connecting: dict[str, str], name: str) -> None:
    measured(name, CONNECTED_MS, connecting, *CONNECTING[name])
