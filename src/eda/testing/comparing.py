"""Whether decided events are those that a test expects, and a text that shows the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eda._event import Event
from eda.errors import CodecError

__all__ = ["difference", "shown_events"]

# Fields that are compared only if the expected event sets them.
_OPTIONAL = ("schema", "cause", "client")


def difference(expected: Sequence[Event], decided: Sequence[Event]) -> str:
    """Return a text that shows how the decided events differ from the expected ones; "" if they are the same."""
    n_same = min(len(expected), len(decided))
    before = next((i for i in range(n_same) if not _is_same(expected[i], decided[i])), n_same)
    if before == len(expected) == len(decided):
        return ""
    after = 0
    while after < n_same - before and _is_same(expected[-1 - after], decided[-1 - after]):
        after += 1
    other_expected = expected[before : len(expected) - after]
    other_decided = decided[before : len(decided) - after]
    lines = [f"    {_shown(event)}" for event in decided[:before]]
    for i in range(max(len(other_expected), len(other_decided))):
        pair = [*other_expected[i : i + 1], *other_decided[i : i + 1]]
        lines += [f"  - {_shown(event)}" for event in other_expected[i : i + 1]]
        lines += [f"  + {_shown(event)}" for event in other_decided[i : i + 1]]
        if len(pair) == 2:
            lines += [f"      {line}" for line in _other_fields(*pair)]
    lines += [f"    {_shown(event)}" for event in decided[len(decided) - after :]]
    return "\n".join(["(- expected, + decided)", *lines])


def shown_events(events: Sequence[Event]) -> str:
    """Return the events as a text, one in each line."""
    return "\n".join(f"    {_shown(event)}" for event in events) or "    no event"


def _is_same(expected: Event, decided: Event) -> bool:
    if expected.type != decided.type or _other_parts(expected, decided):
        return False
    # A class without __eq__ has no other equal instance, but its bytes are equal.
    return _is_equal(_value_of(expected), _value_of(decided)) or expected.data == decided.data


def _is_equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _value_of(event: Event) -> Any:
    """Return the payload; without a payload class, or if it does not decode, the plain data or its bytes."""
    for read in (event.payload, event.data.decode):
        try:
            return read()
        except (CodecError, ValueError):
            continue
    return event.data.encode()


def _other_parts(expected: Event, decided: Event) -> list[str]:
    """Return what else the expected event has set and the decided event has not: cause, metadata."""
    lines = [
        f"{name}: expected {getattr(expected, name)!r}, decided {getattr(decided, name)!r}"
        for name in _OPTIONAL
        if getattr(expected, name) not in ("", getattr(decided, name))
    ]
    meta = decided.meta
    lines += [
        f"meta[{key!r}]: expected {value!r}, decided {meta.get(key)!r}"
        for key, value in expected.meta.items()
        if meta.get(key) != value
    ]
    return lines


def _other_fields(expected: Event, decided: Event) -> list[str]:
    """Return a line for each part in which two events of the same type differ."""
    if expected.type != decided.type:
        return []
    lines = _other_parts(expected, decided)
    one, other = _plain(expected), _plain(decided)
    if isinstance(one, dict) and isinstance(other, dict):
        lines += [
            f"{key}: expected {_of(one, key)}, decided {_of(other, key)}"
            for key in {**one, **other}
            if _of(one, key) != _of(other, key)
        ]
    return lines


def _plain(event: Event) -> Any:
    try:
        return event.data.decode()
    except ValueError:  # protobuf needs its class
        return None


def _of(fields: dict[Any, Any], key: object) -> str:
    return repr(fields[key]) if key in fields else "nothing"


def _shown(event: Event) -> str:
    value = _value_of(event)
    if f"at {id(value):#x}" in repr(value):  # an object without a repr of its own: its address says nothing
        value = _plain(event)
    data = "" if event.data.type == "nil" else f" {value!r}"
    return f"{event.type or 'an event without a type'}{data}"
