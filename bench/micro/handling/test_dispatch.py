"""From bytes to the handler and the acknowledgement without a server, beside a plain loop that awaits the handler."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.handling.dispatch import CONTENDERS, N_DISPATCH


@pytest.mark.parametrize("name", ["eda_dispatch", "eda_to_handler", "plain_await"])
def test_all_is_handled_and_acknowledged(name: str) -> None:
    contender = CONTENDERS[name]()
    for _ in range(3):
        assert contender.run() == (0, N_DISPATCH)


@pytest.mark.parametrize("names", [("eda_dispatch", "plain_await"), ("eda_to_handler",)], ids=["dispatch", "unread"])
def test_dispatch(names: tuple[str, ...], contest: Callable[..., None]) -> None:
    contest("handling.dispatch", *names)
