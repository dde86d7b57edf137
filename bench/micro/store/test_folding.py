"""Folding decoded events into a state, beside a plain loop that calls the same function."""

from __future__ import annotations

from collections.abc import Callable

from micro.store.folding import CONTENDERS


def test_contenders_agree() -> None:
    assert CONTENDERS["eda_fold"]().run() == CONTENDERS["plain_fold"]().run() == 0


def test_folding(contest: Callable[..., None], note: Callable[[str, float], None]) -> None:
    contest("store.folding", "eda_fold", "plain_fold")
    note("a microsecond ns", 1000.0)
