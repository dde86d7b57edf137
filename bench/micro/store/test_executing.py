"""Commands on cached aggregates without a server, beside publishes of the same events."""

from __future__ import annotations

from collections.abc import Callable

import eda
from micro.store.executing import CONTENDERS, N_EVENTS


def test_contenders_store_every_event() -> None:
    executed, published = CONTENDERS["eda_execute"]().run(), CONTENDERS["eda_publish"]().run()
    assert all(isinstance(each, eda.Receipt) for each in published)
    assert [each.receipt.sequence for each in executed] == list(range(1, N_EVENTS + 1))
    assert {(each.version, each.state.n_items) for each in executed} == {(2, 2)}


def test_executing(contest: Callable[..., None]) -> None:
    contest("store.executing", "eda_execute", "eda_publish")
