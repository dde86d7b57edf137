"""What a subscription was asked to do: its stream, name, kind and options."""

from __future__ import annotations

from dataclasses import dataclass

from eda._nuid import next_nuid
from eda.errors import ConfigError
from eda.jetstream.subjects import check_name
from eda.options import SubscriptionOptions
from eda.subscribing.shared_or_ordered import is_ordered

__all__ = ["SubscriptionSpec", "spec_of"]

PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class SubscriptionSpec:
    """What a subscription was asked to do."""

    stream: str
    name: str
    """the name under which a durable subscription keeps its position; for others, a name for log lines and errors"""
    is_durable: bool
    is_ordered: bool
    options: SubscriptionOptions
    asks_bare: bool = False
    """whether an ordered subscription with a filter always asks for the stream's own subject: its user can't go back"""
    is_generated: bool = False
    """whether the name was made for this subscription alone"""
    part: tuple[int, int, int] = (0, 0, 0)
    """how many events are done of which pack, as in Position: an ordered subscription begins in the middle of it"""

    @property
    def counted_as(self) -> str:
        """Return the name under which the subscription is counted. There are only few such names."""
        return PRIVATE if self.is_generated else self.name


def spec_of(stream: str, options: SubscriptionOptions, client: str | None) -> SubscriptionSpec:
    """Return what the options ask for. Raises ConfigError if a durable subscription has no name.

    `client` is the name that the user gave to the connection, or None if the user gave no name.
    """
    ordered = is_ordered(options)
    is_generated = False
    if options.durable:
        name = options.name if options.name is not None else _checked_client(client)
    elif ordered:
        name = PRIVATE
    else:
        is_generated = not options.name
        name = options.name or f"eda-{next_nuid()}"
    return SubscriptionSpec(stream, name, options.durable, ordered, options, is_generated=is_generated)


def _checked_client(client: str | None) -> str:
    if client is None:
        raise ConfigError(
            "a durable subscription keeps its position under a name: give name=..., or client=... to connect()",
            argument="name",
        )
    try:
        return check_name(client)
    except ConfigError as error:
        raise ConfigError(
            f"the client name {client!r} can't name a durable subscription; give name=...", argument="name"
        ) from error
