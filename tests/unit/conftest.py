"""Fixtures that several unit tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from support.handling.dispatching import Rig


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Rig]]:
    """Make rigs whose workers are ended after the test."""
    rigs: list[Rig] = []

    def make(handler: Any = None, **options: Any) -> Rig:
        rig = Rig(handler, **options)
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        await rig.end()
