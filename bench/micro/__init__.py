"""What the micro benchmarks and the gates run, one module an area: ours, and its reference doing the same work.

An area has the name of its module: `codec`, or `transport.frame` for a wing's. The tests beside the modules time them.
A module's `CONTENDERS` are makers: each does its set-up and returns one round of work, which can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["AREAS", "Maker", "Round", "maker_of"]

AREAS = (
    *("codec", "transport.frame", "handling.ledger", "publishing.window", "handling.dispatch", "typed.payloads"),
    *(
        "handling.packs",
        "publishing.packs",
        "handling.router",
        "store.folding",
        "store.executing",
        "projections.applying",
        "telemetry.metrics",
        "telemetry.traces",
        "cli.lines",
    ),
)


@dataclass(frozen=True)
class Round:
    """Work on `n` events or messages; what it returns is for checks, that contenders did the same."""

    run: Callable[[], Any]
    n: int = 1


Maker = Callable[[], Round]


def maker_of(name: str) -> Maker:
    """Return the contender called `area.contender`. Raises KeyError when there is none."""
    area, _, contender = name.rpartition(".")
    if area not in AREAS:
        raise KeyError(name)
    makers: dict[str, Maker] = import_module(f"micro.{area}").CONTENDERS
    return makers[contender]
