"""How soon the command line answers: help and completion, and the first output of commands that connect.

Each command is a process of its own, in turn with `python -c pass`, which says how busy the machine is. The modules are
compiled beforehand, as pip does when it installs a package.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import pytest

import eda
from eda.cli import main

ROUNDS = 15
STREAM = "orders"

HELP_MS = 150.0
CONNECTED_MS = 350.0

# What each command is asked, and whether it connects.
CONNECTING = {
    "doctor": ["doctor", STREAM],
    "streams ls": ["streams", "ls"],
    "streams info": ["streams", "info", STREAM],
    "subs ls": ["subs", "ls", STREAM],
    "lag": ["lag", STREAM],
    "tail": ["tail", STREAM, "--from", "1"],
    "pub": ["pub", STREAM, "1"],
    "dead ls": ["dead", "ls", STREAM],
    "graph": ["graph", STREAM, "--dot"],
    "store cat": ["store", "cat", "ledger", "a"],
}


@pytest.fixture(scope="module")
def connecting(environment: dict[str, str], server: eda.EmbeddedServer) -> dict[str, str]:
    """The environment of commands whose server has events."""

    async def fill() -> None:
        async with eda.connect(server.url) as conn:
            await conn.streams.create(STREAM)
            for _ in range(10):
                await conn.publish(STREAM, eda.Event(type="made"))
            async with conn.subscribe(STREAM, lambda _: None, name="billing", durable=True):
                pass
            await conn.store("ledger").append("a", [eda.Event(type="opened")], expected="new")

    asyncio.run(fill())
    return environment | {"EDA_URL": server.url}


def first_output_ms(environment: dict[str, str], *arguments: str) -> float:
    """Return how long a Python process takes until it writes something, or until it ends without."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(1)
        took = time.perf_counter() - began
        process.kill()
        if not first and arguments != ("-c", "pass"):
            assert process.wait() == -9, process.stderr.read().decode()
    return took * 1000


@pytest.fixture
def measured(benchmark: Any, note: Callable[[str, float], None], connecting: dict[str, str]) -> Callable[..., None]:
    """Measure what a command needs until its first output, in turn with an empty Python process."""

    def measure(name: str, limit_ms: float, *arguments: str, **more: str) -> None:
        env = connecting | more
        how = ("-c", "from eda.cli import main; main(prog_name='eda')")  # as the script `eda` does
        ours: list[float] = []
        empty: list[float] = []

        def run() -> None:
            empty.append(first_output_ms(env, "-c", "pass"))
            ours.append(first_output_ms(env, *how, *arguments))

        benchmark.pedantic(run, rounds=ROUNDS if benchmark.enabled else 1, iterations=1, warmup_rounds=2)
        took = statistics.median(ours[2:])
        note(f"eda {name} ms", took)
        note(f"python -c pass beside eda {name} ms", statistics.median(empty[2:]))
        note(f"allowed {limit_ms:g} ms", limit_ms)
        benchmark.extra_info["ms"] = took

    return measure


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["bench", "--help"]], ids=" ".join)
def test_help(measured: Callable[..., None], arguments: list[str]) -> None:
    measured(" ".join(arguments), HELP_MS, *arguments)


def test_completion(measured: Callable[..., None]) -> None:
    measured("completion", HELP_MS, _EDA_COMPLETE="bash_complete", COMP_WORDS="eda do", COMP_CWORD="1")


KNOWN = [name for name in CONNECTING if name.split()[0] in main.list_commands(click.Context(main))]


@pytest.mark.parametrize("name", KNOWN)
def test_first_output(measured: Callable[..., None], name: str) -> None:
    measured(name, CONNECTED_MS, *CONNECTING[name])
