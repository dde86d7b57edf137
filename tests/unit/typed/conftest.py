"""Each test of payload classes has its own declarations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.typed.declarations import own_declarations


@pytest.fixture(autouse=True)
def declarations() -> Iterator[None]:
    with own_declarations():
        yield
