"""Decides whether a subscription is shared or ordered, and whether its stream allows that kind."""

from __future__ import annotations

from eda.errors import ConfigError
from eda.jetstream.stream_info import StreamInfo
from eda.options import SubscriptionOptions
from eda.subscribing.filters import server_filter

__all__ = ["check_retention", "is_ordered"]


def is_ordered(options: SubscriptionOptions) -> bool:
    """Return whether the subscription reads the stream by itself, rather than share a consumer with other members."""
    is_private = not options.durable and options.name is None
    return bool(options.serial or options.exclusive or options.key) or is_private


def check_retention(info: StreamInfo, options: SubscriptionOptions, *, filters_reliably: bool) -> None:
    """Raise ConfigError if the subscription would lose events because of the stream's retention.

    A stream with another retention than "limits" removes each event that was acknowledged. A reader that acknowledges
    nothing counts as if it had acknowledged each event that it has read. So only a shared consumer, whose members
    acknowledge what they have handled, loses nothing there.
    """
    if info.retention == "limits":
        return
    where = f"stream {info.name!r} has retention={info.retention!r}, which removes an event once it is acknowledged"
    if is_ordered(options):
        asked = next((each for each in ("serial", "exclusive", "key") if getattr(options, each)), "a private one")
        raise ConfigError(
            f"{where}: an ordered subscription ({asked}) reads without acknowledging and would lose events. Use a "
            "shared one: name=... (with durable=True to keep the position), without serial, exclusive and key.",
            argument="stream",
        )
    if info.retention != "workqueue":
        return
    if not options.backfill:
        raise ConfigError(
            f"{where}: a work queue has only events that are not handled yet, so a subscription begins with the first. "
            "Use backfill=True, without start.",
            argument="backfill",
        )
    is_filtered = options.types is not None or options.aggregate is not None
    if is_filtered and info.options.packed:
        raise ConfigError(
            f"{where}: it is packed, and one subscription acknowledges a pack for all of its events, also those that "
            "other subscriptions wait for. Subscribe without types and aggregate (a Router needs unknown='raw' for "
            "that), or use a stream of its own for each subscription.",
            argument="types" if options.types is not None else "aggregate",
        )
    if is_filtered and not server_filter(info, [f"{info.name}.x"], filters_reliably=filters_reliably):
        raise ConfigError(
            f"{where}: the server can't filter this stream by type or aggregate, and a filter in the client would "
            "remove the events that other subscriptions wait for. Subscribe without types and aggregate.",
            argument="types" if options.types is not None else "aggregate",
        )
