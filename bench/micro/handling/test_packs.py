"""The events of packs from bytes to the handler, beside the same events in messages of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.handling.dispatch import N_DISPATCH
from micro.handling.packs import CONTENDERS, KINDS, N_PACKS


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_handled_and_acknowledged(kind: str) -> None:
    for prefix, n_acknowledged in (("packed", N_PACKS), ("unpacked", N_DISPATCH)):
        contender = CONTENDERS[f"{prefix}_{kind}"]()
        for _ in range(3):
            assert contender.run() == (0, n_acknowledged if kind == "shared" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_packs(kind: str, contest: Callable[..., None]) -> None:
    contest("handling.packs", f"packed_{kind}", f"unpacked_{kind}")


def test_envelopes(contest: Callable[..., None]) -> None:
    contest("handling.packs", "envelopes")
