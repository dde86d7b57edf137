"""The mark of streams that may have packs: whether packs can be published to a stream, and why the mark never changes.

A subscription with a filter asks the server for the subjects of packs only if the stream has the mark. So a pack in a
stream without the mark would be lost for it.
"""

from __future__ import annotations

from eda.errors import ConfigError
from eda.jetstream.stream_info import StreamInfo, check_takes_events
from eda.options import StreamOptions

__all__ = ["check_packed", "check_stays_packed", "refusal_of_packs"]


def check_packed(info: StreamInfo) -> None:
    """Raise ConfigError, with the argument "pack", unless packs can be published to the stream.

    Raises what `check_takes_events` raises.
    """
    name = info.name
    takes_all = check_takes_events(info)
    if not info.options.packed:
        why = (
            "it is not packed. Create a new stream with StreamOptions(packed=True), or publish to "
            f"{name!r} without pack="
        )
    elif info.options.store:
        why = "it belongs to event stores"
    elif not takes_all:
        why = f"it does not listen to all of {name}.*.*, where packs are published, but to {', '.join(info.subjects)}"
    elif info.max_events_per_subject is not None:
        why = (
            f"its limit max_msgs_per_subject={info.max_events_per_subject} counts the messages on each subject, and "
            "packs with events of different types or aggregates share one subject. Remove the limit, or publish "
            "without pack="
        )
    else:
        return
    raise ConfigError(f"stream {name!r} takes no packs: {why}", argument="pack")


def refusal_of_packs(info: StreamInfo) -> ConfigError | None:
    """Return the error with which `check_packed` refuses the stream; None if it takes packs."""
    try:
        check_packed(info)
    except ConfigError as error:
        return error
    return None


def check_stays_packed(stream: str, before: StreamOptions, packed: bool) -> None:
    """Raise ConfigError if new settings of a stream would change whether it is packed."""
    if packed == before.packed:
        return
    if packed:
        message = (
            f"stream {stream!r} can't become packed: subscriptions with a filter that are open already do not ask for "
            f"packs, and would lose their events. Create a new stream with StreamOptions(packed=True) instead"
        )
    else:
        message = (
            f"stream {stream!r} is packed and stays packed: without the mark, subscriptions with a filter would lose "
            "the events of its packs. Give StreamOptions(packed=True, ...) or single settings. For a stream that is "
            "not packed, create a new one"
        )
    raise ConfigError(message, argument="packed")
