"""Folding decoded events into a state, beside a plain loop that calls the same function."""

from __future__ import annotations

import eda
from eda._codec import encode_event, stored_event
from micro import Maker, Round
from micro.codec import DATA

__all__ = ["CONTENDERS", "N_EVENTS"]

N_EVENTS = 1000


def evolve(state: int, event: eda.Event) -> int:
    return state


def events() -> list[eda.Event]:
    """Return events as a load gets them."""
    found = []
    for version in range(1, N_EVENTS + 1):
        event = eda.Event(type="item-added", aggregate="order-1", data=eda.Bytes(DATA))
        envelope = encode_event(event, f"req-{version}", "bench", 1, version)
        found.append(stored_event(envelope, "orders", version, 1))
    return found


def eda_fold() -> Round:
    decider: eda.Decider[int, None] = eda.Decider(0, evolve)
    loaded = events()
    return Round(lambda: decider.fold(decider.new_state(), loaded), N_EVENTS)


def plain_fold() -> Round:
    loaded = events()

    def run() -> int:
        state = 0
        for event in loaded:
            state = evolve(state, event)
        return state

    return Round(run, N_EVENTS)


CONTENDERS: dict[str, Maker] = {maker.__name__: maker for maker in (eda_fold, plain_fold)}
