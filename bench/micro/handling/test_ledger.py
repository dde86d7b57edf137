"""Both ledgers, beside ledgers of plain Python dictionaries."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.handling.ledger import CONTENDERS, N_HELD


@pytest.mark.parametrize("kind", ["shared", "ordered"])
def test_contenders_agree(kind: str) -> None:
    ours, plain = CONTENDERS[f"eda_{kind}"](), CONTENDERS[f"dict_{kind}"]()
    for _ in range(2):
        assert ours.run() == plain.run() == (N_HELD, 0)


@pytest.mark.parametrize("kind", ["shared", "ordered"])
def test_ledger(kind: str, contest: Callable[..., None]) -> None:
    contest("handling.ledger", f"eda_{kind}", f"dict_{kind}")
