"""What every test gets: errors that only a log or the event loop sees fail the test."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import Logged
from support.log_table import undocumented
from support.typed.declarations import own_declarations

WITH_SERVERS = {"faults", "live", "security"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names of tests that contain an address: each process would have other tests, so none could be shared."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"give the parameters an id without an address: {item.nodeid}")


def pytest_collection_finish() -> None:
    """Spare the collections between tests what is there to stay."""
    _freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Spare the tests of a file what the files before have left: imported modules, caches, reports.

    The fixtures of the file before have ended, those of this one have not begun. So what one test leaves behind for the
    collection after it is never among what stays.
    """
    global _file
    if item.path != _file:
        _file = item.path
        _freeze()


_file: Path | None = None  # of the test that runs


def _freeze() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logged(request: pytest.FixtureRequest) -> Iterator[Logged]:
    """Collect the log; an ERROR of eda, nats-py or the event loop that the test does not `expect` fails it.

    A record that docs/logging.md does not describe fails the test as well.
    """
    handler = Logged()
    loggers = [logging.getLogger(name) for name in handler.LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if logger.name == "eda" else logging.INFO)
    try:
        yield handler
        if WITH_SERVERS & set(request.path.parts):
            gc.collect()  # a task destroyed while pending, an exception never retrieved: said when they are collected
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    problems = handler.problems() + undocumented(handler.records)
    if problems:
        pytest.fail("logged:\n" + "\n".join(problems), pytrace=False)


@pytest.fixture(autouse=True)
def declarations() -> Iterator[None]:
    """Forget the payload classes, upcasters and encodings that the test declares. Those of modules stay."""
    with own_declarations():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the fault tests counted."""
    passed = terminalreporter.stats.get("passed", [])
    counted = [(each.nodeid, text) for each in passed for key, text in each.user_properties if key == "counts"]
    if counted:
        terminalreporter.section("handled again, and counted")
    for nodeid, text in counted:
        terminalreporter.line(f"{nodeid.rpartition('/')[2]}: {text}")
