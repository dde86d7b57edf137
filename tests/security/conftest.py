"""What tests of hostile peers and of credentials share: nothing left behind, and a bound on memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from leaks import resident
from support.transport.fake_server import FakeServer


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """Fail when a test leaves tasks behind, after its connections are closed."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=5.0)
    assert not left, f"tasks are left: {left}"


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as server:
        yield server


@contextmanager
def _growing_by_at_most(mib: int) -> Iterator[None]:
    """Fail when the process holds that much more at the end than at the begin; only where /proc tells."""
    gc.collect()
    before = resident()
    yield
    gc.collect()
    grown = (resident() - before) / 2**20
    assert grown <= mib, f"{grown:.0f} MiB more than before"


@pytest.fixture
def growing_by_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """Give a context manager that bounds the memory (in MiB) that what is done in it may hold on to."""
    return _growing_by_at_most
