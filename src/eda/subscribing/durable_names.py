"""The names of durable subscriptions: no two positions may use the same name."""

from __future__ import annotations

import logging

from eda.cursors.entry import CursorEntry
from eda.errors import ConfigError
from eda.jetstream.api import Api
from eda.jetstream.bucket import BUCKET
from eda.subscribing.moved_position import MovedPositions
from eda.transport.wire import Wire

__all__ = ["DurableNames", "check_other_kind"]


class DurableNames:
    """The names that the open durable subscriptions of one connection use."""

    def __init__(self) -> None:
        # By stream and name: for each subscription that uses the name, True if its options gave the name, False if it
        # uses the client's name.
        self._in_use: dict[tuple[str, str], list[bool]] = {}

    def take(self, stream: str, name: str, *, is_given: bool) -> None:
        """Note that a subscription to `stream` uses the name. `is_given=False` means that it is the client's name.

        Two subscriptions without a name of their own would share one position, and each would miss the events of the
        other. So this raises ConfigError for the second one.
        """
        users = self._in_use.setdefault((stream, name), [])
        if users and not (is_given and all(users)):
            raise ConfigError(
                f"another durable subscription of this connection to stream {stream!r} keeps its position under the "
                f"client's name {name!r}, so the two would share their events: give each of them name=...",
                argument="name",
            )
        users.append(is_given)

    def release(self, stream: str, name: str, *, is_given: bool) -> None:
        """Undo a `take` with the same arguments."""
        users = self._in_use[stream, name]
        users.remove(is_given)
        if not users:
            del self._in_use[stream, name]


async def check_other_kind(
    wire: Wire, api: Api, logger: logging.Logger, stream: str, name: str, *, ordered: bool, reset: bool
) -> MovedPositions | None:
    """Raise ConfigError if a subscription of the other kind has the name. With `reset`, delete its position instead.

    `ordered` is the kind that the options ask for. For a shared subscription, return where it has looked for a
    moved position. Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    if ordered:
        if await api.consumer_info(stream, name) is None:
            return None
        if reset:
            await api.delete_consumer(stream, name)
            return None
        kept, asked = "a shared one (a consumer of the stream)", "an ordered one (exclusive, serial or key)"
    else:
        entry = CursorEntry(wire, api, stream, name)
        positions = MovedPositions(entry, logger)
        if reset:
            await entry.delete()
            return positions
        value = await positions.look()
        if value is None or value.is_of_shared:
            return positions
        kept, asked = f"an ordered one (its cursor is a key in {BUCKET})", "a shared one"
    raise ConfigError(
        f"subscription {name!r} of stream {stream!r} exists and differs: it is {kept}, the options ask for {asked}. "
        "Use another name, or reset=True to forget its position.",
        argument="name",
    )
