"""Events whose trace is not sampled, handled and sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro.handling.dispatch import N_DISPATCH
from micro.publishing.window import N_EVENTS
from micro.telemetry.traces import CONTENDERS


@pytest.mark.parametrize("name", ["handled", "handled_unsampled"])
def test_a_round_handles_all_events(name: str) -> None:
    assert CONTENDERS[name]().run() == (0, N_DISPATCH)


@pytest.mark.parametrize("name", ["sent", "sent_unsampled"])
def test_a_round_sends_all_events(name: str) -> None:
    n_acknowledged, n_pending, n_bytes = CONTENDERS[name]().run()
    assert (n_acknowledged, n_pending) == (N_EVENTS, 0)
    assert n_bytes > N_EVENTS * 200


def test_traces_carry_a_context() -> None:
    n_plain, n_traced = (CONTENDERS[name]().run()[2] for name in ("sent", "sent_unsampled"))
    assert n_traced - n_plain >= N_EVENTS * len("traceparent" + "00-" + "0" * 32 + "-" + "0" * 16 + "-00")


def test_traces(contest: Callable[..., None]) -> None:
    contest("telemetry.traces", "sent_unsampled")
