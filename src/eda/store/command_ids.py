"""The ids of a command's events: `<command id>.<hash of the aggregate>.<number>`.

The ids of a command that is executed again are the same, so the stream stores its events only once. One request may
execute commands on two aggregates under one command id, and a stream compares all its ids. So an id has a hash of its
aggregate.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

from eda.errors import ConfigError

__all__ = ["MAX_COMMAND_ID", "check_command_id", "command_in", "event_ids", "infix_of"]

MAX_COMMAND_ID = 100  # characters

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_COMMAND_ID = re.compile(rf"[!-~]{{1,{MAX_COMMAND_ID}}}")
_EVENT_ID = re.compile(rf"[!-~]{{1,{MAX_COMMAND_ID}}}\.[0-9A-Za-z]{{10}}\.[1-9][0-9]{{0,3}}")  # of a command's event


def check_command_id(command_id: object) -> str:
    """Return a command id as a plain str. Raises ConfigError unless it has 1 to 100 printable ASCII characters.

    A space is not allowed, because event ids are written into headers. The id of a command's event may be longer. In
    its place a hash of it is returned: a handler gives the id of its event to the next command, so each command in a
    chain of handlers would have a longer id than the one before.
    """
    if isinstance(command_id, str) and len(command_id) > MAX_COMMAND_ID and _EVENT_ID.fullmatch(command_id):
        return "~" + blake2b(command_id.encode(), digest_size=16).hexdigest()
    if not isinstance(command_id, str) or not _COMMAND_ID.fullmatch(command_id):
        raise ConfigError(
            f"command_id must be a str of 1 to {MAX_COMMAND_ID} printable ASCII characters without spaces, not "
            f"{_shown(command_id)}",
            argument="command_id",
        )
    return str.__str__(command_id)


def event_ids(command_id: str, aggregate: str, n: int) -> list[str]:
    """Return the ids of the `n` events of a command on an aggregate."""
    prefix = command_id + infix_of(aggregate)
    return [f"{prefix}{i}" for i in range(1, n + 1)]


def command_in(event_id: str, infix: str) -> tuple[str, int] | None:
    """Return the command id and the number in an event id; None if it has another form, or another `infix_of`.

    Only commands and appends with a `command_id` make event ids of this form.
    """
    head, dot, number = event_id.rpartition(".")
    if not (head + dot).endswith(infix) or not number.isascii() or not number.isdigit() or number[0] == "0":
        return None
    command_id = head[: 1 - len(infix)]
    return (command_id, int(number)) if _COMMAND_ID.fullmatch(command_id) else None


@lru_cache(maxsize=16_384)  # about 3 MB; without it a command takes 2 µs more
def infix_of(aggregate: str) -> str:
    """Return the text between the command id and the number in an event id: the aggregate's hash between two dots."""
    rest = int.from_bytes(blake2b(aggregate.encode(), digest_size=8).digest())
    pairs = []
    for _ in range(5):
        rest, pair = divmod(rest, 3844)
        pairs.append(_PAIRS[pair])
    return f".{''.join(pairs)}."


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"
