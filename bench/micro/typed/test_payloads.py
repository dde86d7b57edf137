"""Events from payloads of a declared class, and payloads from events, beside the same without a declaration."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.typed.payloads import READING, typed_decode, typed_event, untyped_decode, untyped_event


def test_contenders_agree() -> None:
    assert typed_event() == untyped_event()
    assert typed_decode() == untyped_decode() == READING


@pytest.mark.parametrize(
    "names", [("typed_event", "untyped_event"), ("typed_decode", "untyped_decode")], ids=["make", "decode"]
)
def test_payloads(names: tuple[str, ...], contest: Callable[..., None]) -> None:
    contest("typed.payloads", *names)
