"""A router's handlers without a server, beside untyped ones and msgspec's decoding of the same payloads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import eda
from eda._router import routed
from micro.handling.dispatch import dispatched, frames_of
from micro.handling.router import CONTENDERS, N_ROUTED, VARIANTS, PaidDataclass, PaidStruct, make_event


@pytest.mark.parametrize("name", CONTENDERS)
def test_all_is_handled(name: str) -> None:
    contender = CONTENDERS[name]()
    for _ in range(3):
        held, acknowledged = contender.run()
        assert (held, acknowledged) == (0, 0 if name.endswith("_exclusive") else N_ROUTED)


@pytest.mark.parametrize("cls", [PaidStruct, PaidDataclass])
def test_payloads_are_decoded(cls: type[PaidStruct] | type[PaidDataclass]) -> None:
    seen: list[object] = []
    router = eda.Router()
    router.on(cls)(seen.append)
    data = frames_of([make_event(n, cls) for n in range(N_ROUTED)])
    dispatched(routed(router, eda.SubscriptionOptions())[0], data).run()
    expected = cls("4711", "3292329", 19950, "EUR", ["a-100", "b-200"], "card", False)
    assert seen == [expected] * N_ROUTED


@pytest.mark.parametrize("name", VARIANTS)
def test_router(name: str, contest: Callable[..., None]) -> None:
    contest("handling.router", f"typed_{name}", f"untyped_and_msgspec_{name}")
