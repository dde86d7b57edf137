"""From bytes to the projection's function and back, without a server, beside a handler of the same lists."""

from __future__ import annotations

from collections.abc import Callable

from micro.projections.applying import CONTENDERS, N_EVENTS


def test_contenders_reach_the_last_event() -> None:
    for make in CONTENDERS.values():
        contender = make()
        assert contender.run() == contender.run() == N_EVENTS


def test_applying(contest: Callable[..., None]) -> None:
    contest("projections.applying", "eda_project", "eda_lists")
