"""Appends and commands beside publishes: each contender stores its events."""

from __future__ import annotations

import pytest

from micro.store.appending import CONTENDERS, N_EVENTS


@pytest.mark.parametrize("name", CONTENDERS)
def test_all_is_stored(name: str) -> None:
    assert CONTENDERS[name]().run() == N_EVENTS
