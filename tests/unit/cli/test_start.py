"""eda.cli: what the command loads before it runs anything, so that it answers at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = {"asyncio", "google.protobuf", "logging", "msgpack", "msgspec", "nats", "rich", "ssl"}


def loaded_by(*arguments: str) -> tuple[str, set[str]]:
    """Return what the command prints in a process of its own, and the modules that it has loaded."""
    code = "import json, sys\nfrom eda.cli import main\n"
    code += "try:\n    main(sys.argv[1:], prog_name='eda')\nexcept SystemExit as end:\n    assert not end.code\n"
    code += "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, set(json.loads(ended.stderr))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "Publish from one process and handle in another"),
        (["-h"], "demo "),
        (["--version"], "eda, version "),
        (["bench", "--help"], "--size INTEGER RANGE"),
        (["demo", "--help"], "How many events to publish."),
        (["schema", "--help"], "Export the schemas of your payload classes"),
        (["schema", "export", "--help"], "MODULE..."),
        (["schema", "check", "--help"], "New readers must read all stored events."),
        (["store", "cat", "--help"], "Print the events of one aggregate, the oldest first."),
        (["outbox", "relay", "--help"], "Publish the events of an outbox"),
        (["views", "--help"], "rebuild"),
        (["views", "ls", "--help"], "--into URL"),
        (["views", "rebuild", "--help"], "MODULE:FUNCTION"),
        (["views", "promote", "--help"], "--max-lag EVENTS"),
    ],
    ids=[
        "help",
        "h",
        "version",
        "bench",
        "demo",
        "schema",
        "export",
        "check",
        "cat",
        "relay",
        "views",
        "ls",
        "rebuild",
        "promote",
    ],
)
def test_command_when_it_only_tells_something_loads_nothing_heavy(arguments: list[str], shown: str) -> None:
    out, loaded = loaded_by(*arguments)
    assert shown in out
    ours = {name for name in loaded if name.split(".")[0] == "eda"}
    assert sorted(name for name in ours - {"eda", "eda._version"} if name.split(".")[:2] != ["eda", "cli"]) == []
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "module", ["click", "eda.cli.groups", "eda.cli.tail", "eda.cli.session", "asyncio", "eda.conn"]
)
def test_command_when_interrupted_as_it_starts_tells_it_in_a_line(module: str) -> None:
    code = """
import signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from eda.cli import main
main(["tail", "orders", "--addr", "nats://127.0.0.1:1"])
"""
    ended = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs the CPU time of a child process")
def test_help_when_timed_costs_little_more_than_click() -> None:
    def least_cpu_s(*arguments: str) -> float:
        """Return the least user and system time of several runs: a busy machine adds to some of them only."""
        times = []
        for _ in range(5):
            child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            times.append(usage.ru_utime + usage.ru_stime)
        return min(times)

    # It takes 1.3 times as long. With rich and a connection it would take 5 times as long.
    assert least_cpu_s("-m", "eda.cli", "--help") < 2 * least_cpu_s("-c", "import click") + 0.005


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def shell(line: str) -> tuple[int, str]:
    """Run a line of the shell in which `eda` is the command; give its exit code, and what it printed to stderr."""
    line = line.replace("eda ", f"'{sys.executable}' -m eda.cli ", 1)
    ended = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stderr


@needs_full
@pytest.mark.parametrize("arguments", ["--help", "--version", "tail --help"])
def test_command_when_the_output_is_full_says_so(arguments: str) -> None:
    said = "Error: standard output can't be written: No space left on device\n"
    assert shell(f"eda {arguments} > /dev/full") == (2, said)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("eda tail s --no-follow --addr nats://127.0.0.1:1 >&-", "Error: cannot connect"),
        ("eda pub s --lines --addr nats://127.0.0.1:1 <&-", "Error: cannot connect"),
        ("eda pub s - <&-", "Error: the data is not JSON"),
        ("eda tail s --addr nats://127.0.0.1:1 2>&-", ""),
    ],
)
def test_command_when_a_standard_stream_is_closed_has_no_traceback(line: str, said: str) -> None:
    code, err = shell(line)
    assert code == 2
    assert err.startswith(said)
    assert "Traceback" not in err
