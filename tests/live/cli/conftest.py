"""Commands are forked where they can be: see `support.cli.nursery`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.cli import commands
from support.cli.nursery import CommandNursery


@pytest.fixture(scope="session", autouse=True)
def nursery() -> Iterator[None]:
    """What starts the commands of the tests."""
    if not hasattr(os, "fork"):
        yield
        return
    with CommandNursery() as commands.nursery:
        yield
    commands.nursery = None
