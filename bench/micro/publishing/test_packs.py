"""Publishing packs without a server, beside messages of their own, and beside Event() and encoding alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.publishing.packs import CONTENDERS


@pytest.mark.parametrize("name", ["packed_send_many", "unpacked_send_many", "packed_one_by_one"])
def test_all_is_acknowledged(name: str) -> None:
    contender = CONTENDERS[name]()
    for _ in range(3):
        assert contender.run() == 0


@pytest.mark.parametrize(
    "names",
    [("packed_send_many", "unpacked_send_many"), ("packed_one_by_one", "event_and_encoding")],
    ids=["send_many", "one_by_one"],
)
def test_packs(names: tuple[str, ...], contest: Callable[..., None]) -> None:
    contest("publishing.packs", *names)
