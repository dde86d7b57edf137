"""The aggregates of the event store's fault tests: accounts whose events say which command decided on them.

The data of each event is {"c": the command's id, "i": the event's number, "k": how many events the command appends,
"x": an amount, "seen": the version of the state on which it was decided}. "seen" is left out where nobody looked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TYPES", "Account", "Command", "Refusal", "after", "chain_of", "chained", "move", "moved", "type_of"]

TYPES = ("moved", "moved-far", "moved.back")


@dataclass(frozen=True)
class Account:
    """The state. `chain`: a hash over the ids of all events, in their order."""

    version: int = 0
    total: int = 0
    chain: str = ""


@dataclass(frozen=True)
class Command:
    """What to do with an account. `kind`: "move", "refuse" (always a Refusal) or "nothing" (no event)."""

    id: str
    aggregate: str
    kind: str = "move"
    amount: int = 1
    n: int = 1


class Refusal(Exception):
    """An error of the domain."""


def chained(chain: str, event_id: str) -> str:
    return hashlib.blake2b(f"{chain} {event_id}".encode(), digest_size=8).hexdigest()


def chain_of(ids: Iterable[str]) -> str:
    chain = ""
    for each in ids:
        chain = chained(chain, each)
    return chain


def after(state: Account, event_id: str, data: Mapping[str, Any]) -> Account:
    """Return the state after an event. The fault tests' checker folds with it, too."""
    return Account(state.version + 1, state.total + data["x"], chained(state.chain, event_id))


def type_of(data: Mapping[str, Any]) -> str:
    """Return the event type that carries the data. Each aggregate has events of several types."""
    return TYPES[(data["x"] + data["i"]) % len(TYPES)]


def moved(command: Command, seen: int | None) -> list[dict[str, Any]]:
    """Return the data of the command's events."""
    common = {"c": command.id, "k": command.n, "x": command.amount}
    return [common | {"i": i} | ({} if seen is None else {"seen": seen}) for i in range(1, command.n + 1)]


def move(state: Account, command: Command) -> list[dict[str, Any]]:
    """Return the data of the events that the command decides on. An account is never overdrawn."""
    if command.kind == "nothing":
        return []
    if command.kind == "refuse" or state.total + command.amount * command.n < 0:
        raise Refusal(command.id)
    return moved(command, state.version)
