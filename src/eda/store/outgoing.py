"""The events of an append: checked, completed with their aggregate, and their ids."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from eda._event import Event
from eda._nuid import next_nuid
from eda.errors import CodecError, ConfigError
from eda.names import FORGOTTEN, SNAPSHOT
from eda.publishing._stream_sender import check_event_id
from eda.publishing.atomic_batch import MAX_EVENTS
from eda.store.command_ids import event_ids
from eda.store.decider_arguments import shown_type
from eda.typed.registry import payload_class_of

__all__ = ["check_aggregate", "ids_of", "plain_events"]


def check_aggregate(aggregate: str) -> str:
    """Return the name of an aggregate as a plain str. Raises ConfigError for an empty name and for other types."""
    if not isinstance(aggregate, str):
        raise ConfigError(f"aggregate must be a str, not {aggregate!r}", argument="aggregate")
    aggregate = str.__str__(aggregate)
    if not aggregate:
        raise ConfigError("aggregate is empty: an aggregate needs a name", argument="aggregate")
    return aggregate


def plain_events(aggregate: str, events: object) -> list[Event]:
    """Return the given events, of this aggregate: each is an Event, or an instance of a declared payload class.

    Raises ConfigError, naming the event, if one is something else, has a reserved type or names another aggregate, and
    if there is none or more than 1,000.
    """
    if isinstance(events, str | bytes | dict) or not isinstance(events, Iterable):
        raise ConfigError(f"events must be an iterable of events, not {events!r}", argument="events")
    given = events if type(events) is list else list(islice(events, MAX_EVENTS + 1))
    if not given:
        raise ConfigError("events is empty: an append has at least one event", argument="events")
    if len(given) > MAX_EVENTS:
        raise ConfigError(f"an append has at most {MAX_EVENTS} events", argument="events")
    return [_of_aggregate(aggregate, each, index) for index, each in enumerate(given)]


def _of_aggregate(aggregate: str, given: object, index: int) -> Event:
    if type(given) is not Event:
        if payload_class_of(type(given)) is None:
            raise ConfigError(
                f"events[{index}] is {shown_type(given)}: an event is an eda.Event, or an instance of a class that is "
                "declared with eda.payload",
                argument="events",
            )
        try:
            return Event(data=given, aggregate=aggregate)
        except (ConfigError, CodecError) as error:
            error.add_note(f"events[{index}]")
            raise
    if given.aggregate != aggregate:
        if given.aggregate:
            raise ConfigError(
                f"events[{index}] belongs to aggregate {given.aggregate!r}, not to {aggregate!r}", argument="events"
            )
        given = given.replace(aggregate=aggregate)
    if given.type in (FORGOTTEN, SNAPSHOT):
        raise ConfigError(f"events[{index}] has the type {given.type!r}, which only eda uses", argument="events")
    return given


def ids_of(aggregate: str, events: list[Event], command_id: str | None) -> list[str]:
    """Return the ids under which the events of one append are published.

    They come from the command's id, if there is one. Otherwise an event keeps its own id, and an event without an id
    gets a new one. Raises ConfigError for an id that can't be published, for an id that two events have, and for an
    event with an id of its own if there is a command's id.
    """
    if command_id is not None:
        for index, event in enumerate(events):
            if event.id:
                message = f"events[{index}] has an id, {event.id}: with a command_id, the store gives the ids"
                raise ConfigError(message, argument="events")
        return event_ids(command_id, aggregate, len(events))
    if len(events) == 1 and not events[0].id:
        return [next_nuid()]
    ids: dict[str, int] = {}
    for index, event in enumerate(events):
        event_id = event.id
        if event_id:
            check_event_id(event_id)
        else:
            event_id = next_nuid()
        if ids.setdefault(event_id, index) != index:
            raise ConfigError(f"events[{index}] has the id of events[{ids[event_id]}]: {event_id}", argument="events")
    return list(ids)
