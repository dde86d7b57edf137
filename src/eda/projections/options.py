"""The arguments of `conn.projection`, checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

from eda._event import Event
from eda.errors import ConfigError
from eda.handling.dead_lettering import dead_letter_stream
from eda.jetstream.subjects import check_stream_name
from eda.names import MAX_NAME, SUBSCRIPTION_NAME
from eda.options import Retry, SubscriptionOptions
from eda.projections.sink import Sink

__all__ = [
    "DEFAULT_RETRY",
    "Key",
    "ProjectionOptions",
    "check_projection_name",
    "check_sink",
    "check_version",
    "projection_options",
]

DEFAULT_RETRY = Retry(max_attempts=5)  # an event that always fails stops its lane for 1.5 s
MAX_LANES = 1024
MAX_VERSION = 2**31 - 1
FOREVER_S = 1e9  # the handler of a projection's own subscription waits for the database, however long that takes
PREFETCH = 4096
SINGLES = 256  # with batch=None, how many events come from the subscription at once

Key = Literal["aggregate"] | Callable[[Event], Hashable] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectionOptions:
    """The arguments of `conn.projection`, checked."""

    streams: tuple[str, ...]
    name: str
    version: int
    types: Collection[str] | None
    aggregate: str | None
    key: Key
    lanes: int
    batch: int | None
    linger_s: float
    retry: Retry
    dead_letter: str | None
    timeout_s: float

    @property
    def label(self) -> str:
        """The name in messages."""
        return f"projection {self.name!r} version {self.version}"

    @property
    def subscription_name(self) -> str:
        """The name of its subscriptions, under which its dead letters are stored and replayed."""
        return f"{self.name}-v{self.version}"

    @property
    def chunk(self) -> int:
        """How many events are taken from the subscription at once, at most."""
        return self.batch or SINGLES

    def subscription(self, start: int) -> SubscriptionOptions:
        """Return the options of the subscription that reads a stream from `start` onwards."""
        return SubscriptionOptions(
            start=start,
            serial=True,
            types=self.types,
            aggregate=self.aggregate,
            batch=self.chunk,
            linger_s=self.linger_s if self.batch else 0,
            prefetch=max(PREFETCH, self.chunk),
            timeout_s=FOREVER_S,
            retry=self.retry,
            dead_letter=self.dead_letter,
        )


def projection_options(
    streams: str | Collection[str],
    sink: Sink,
    *,
    name: str,
    version: int,
    types: Collection[str] | None,
    aggregate: str | None,
    key: Key,
    lanes: int,
    batch: int | None,
    linger_s: float,
    retry: Retry,
    dead_letter: str | None,
    timeout_s: float,
) -> ProjectionOptions:
    """Return the arguments of a projection. Raises ConfigError, which names the argument."""
    checked = SubscriptionOptions(
        types=types,
        aggregate=aggregate,
        key=key,
        batch=None if key is not None else batch,
        linger_s=linger_s,
        prefetch=max(PREFETCH, batch) if isinstance(batch, int) else PREFETCH,
        retry=retry,
        dead_letter=dead_letter,
        timeout_s=timeout_s,
    )
    if key is not None:
        checked = replace(checked, key=None, batch=batch)
    options = ProjectionOptions(
        streams=_stream_names(streams),
        name=check_projection_name(name),
        version=check_version(version),
        types=checked.types,
        aggregate=checked.aggregate,
        key=key,
        lanes=_checked_lanes(lanes, key, sink),
        batch=checked.batch,
        linger_s=checked.linger_s,
        retry=checked.retry,
        dead_letter=checked.dead_letter,
        timeout_s=checked.timeout_s,
    )
    if len(options.subscription_name) > MAX_NAME:
        longest = MAX_NAME - len(options.subscription_name) + len(options.name)
        raise ConfigError(
            f"name must have at most {longest} characters, because dead letters belong to "
            f"{options.subscription_name!r}, which has more than {MAX_NAME}",
            argument="name",
        )
    for stream in options.streams:
        dead_letter_stream(stream, options.dead_letter)
    return options


def check_projection_name(name: object) -> str:
    """Return the name of a projection as a plain str. Raises ConfigError."""
    if not isinstance(name, str) or not SUBSCRIPTION_NAME.fullmatch(name):
        raise ConfigError(f"name must be 1 to {MAX_NAME} of A-Z a-z 0-9 _ -, not {name!r}", argument="name")
    return str.__str__(name)


def check_version(version: object) -> int:
    """Return the version of a projection as a plain int. Raises ConfigError."""
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_VERSION:
        raise ConfigError(f"version must be an int from 1 to {MAX_VERSION}, not {version!r}", argument="version")
    return int(version)


def check_sink(sink: Any) -> Sink:
    """Return the sink. Raises ConfigError for anything that is no sink."""
    needed = ("label", "check_apply", "open", "close", "rows", "claim", "move", "find", "is_outage")
    missing = [each for each in needed if not hasattr(sink, each)]
    if isinstance(sink, type) or missing:
        raise ConfigError(
            f"into must be a database of eda.sql, such as eda.sql.SQLite(path), not {sink!r}", argument="into"
        )
    return sink  # type: ignore[no-any-return]


def _stream_names(streams: object) -> tuple[str, ...]:
    given = [streams] if isinstance(streams, str) else streams
    if not isinstance(given, Collection) or isinstance(given, bytes | dict):
        raise ConfigError(
            f"streams must be the name of a stream or a list of names, not {streams!r}", argument="streams"
        )
    if not given:
        raise ConfigError("streams must not be empty: there would be nothing to apply", argument="streams")
    names = tuple(check_stream_name(each) for each in given)
    if len(set(names)) != len(names):
        raise ConfigError(f"streams names a stream twice: {list(names)}", argument="streams")
    return names


def _checked_lanes(lanes: object, key: Key, sink: Sink) -> int:
    if not isinstance(lanes, int) or isinstance(lanes, bool) or not 1 <= lanes <= MAX_LANES:
        raise ConfigError(f"lanes must be an int from 1 to {MAX_LANES}, not {lanes!r}", argument="lanes")
    if lanes > 1 and key is None:
        raise ConfigError(
            f"lanes={lanes} needs key: it says which events must stay in order, such as key='aggregate'",
            argument="lanes",
        )
    if lanes == 1 and key is not None:
        raise ConfigError(f"key={key!r} needs lanes: with one lane, all events are in order anyway", argument="key")
    if sink.max_lanes is not None and lanes > sink.max_lanes:
        raise ConfigError(
            f"lanes={lanes} can't be combined with {sink.label}, in which {sink.max_lanes} can write at a time",
            argument="lanes",
        )
    return int(lanes)
