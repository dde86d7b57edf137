"""Options as frozen dataclasses that check their values, so that a wrong option fails where it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Literal, TypedDict

from eda.errors import ConfigError
from eda.names import STREAM_NAME, SUBSCRIPTION_NAME

__all__ = [
    "Retry",
    "StreamKeywords",
    "StreamOptions",
    "SubscriptionOptions",
    "check_known",
    "limit_on_old_events",
    "merge_options",
]

# The server holds times (in nanoseconds) and sizes as signed 64-bit integers.
_MAX_S = 9.0e9
_MAX_INT = 2**63 - 1
# The server refuses a shorter age or duplicate window (JetStream error 10052).
_MIN_SERVER_S = 0.1
_MAX_CONCURRENCY = 65_536
DEFAULT_LEASE_S = 30.0
MIN_LEASE_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """When an event is delivered again after its handler failed.

    `initial_s`: the first delay in seconds. `factor`: each further delay is this many times as long as the one before;
    1 or more. `max_s`: the longest delay in seconds. `max_attempts`: after how many failed attempts the event is a dead
    letter; None: never.
    """

    initial_s: float = 0.1
    factor: float = 2.0
    max_s: float = 30.0
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        _check_number("initial_s", self.initial_s, above=0)
        _check_number("factor", self.factor, least=1)
        _check_number("max_s", self.max_s, above=0)
        _check_int("max_attempts", self.max_attempts, 1, _MAX_INT, or_none=True)
        if self.initial_s > self.max_s:
            message = f"initial_s={self.initial_s!r} is more than max_s={self.max_s!r}"
            raise ConfigError(message, argument="initial_s")

    def delay_s(self, attempt: int) -> float:
        """Return the seconds to wait after the failed attempt with this number; the first attempt is 1."""
        try:
            return min(self.max_s, self.initial_s * float(self.factor) ** (attempt - 1))
        except OverflowError:
            return self.max_s


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamOptions:
    """How a stream stores its events.

    `replicas`: the number of copies, 1 to 5. `storage`: on disk ("file") or in memory. `max_age_s`, `max_bytes` and
    `max_events`: the limits of the stream; None: no limit. `dedup_window_s`: for how many seconds the server recognises
    a second event with the same id; at most `max_age_s`. `compression`: None or "s2". `discard`: whether a full stream
    discards its oldest events ("old") or refuses new ones ("new"). `atomic`, `fast_ingest`: whether publishers may use
    atomic or fast-ingest batches; None: if the server supports them. `store`: the stream belongs to event stores
    (`Conn.store`), and all other ways to publish to it are refused. It can't have a limit that discards old events.
    `packed`: publishers may store many events in one message (a pack). `max_events` counts a pack as one event.
    `packed` is set when the stream is created, and can't be changed. A stream for event stores can't be packed.
    """

    replicas: int = 1
    storage: Literal["file", "memory"] = "file"
    max_age_s: float | None = None
    max_bytes: int | None = None
    max_events: int | None = None
    dedup_window_s: float = 120.0
    compression: Literal["s2"] | None = None
    discard: Literal["old", "new"] = "old"
    atomic: bool | None = None
    fast_ingest: bool | None = None
    store: bool = False
    packed: bool = False

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_int("replicas", self.replicas, 1, 5)
        _check_choice("storage", self.storage, ("file", "memory"))
        _check_number("max_age_s", self.max_age_s, least=_MIN_SERVER_S, or_none=True)
        _check_int("max_bytes", self.max_bytes, 1, _MAX_INT, or_none=True)
        _check_int("max_events", self.max_events, 1, _MAX_INT, or_none=True)
        _check_number("dedup_window_s", self.dedup_window_s, least=_MIN_SERVER_S)
        _check_choice("compression", self.compression, (None, "s2"))
        _check_choice("discard", self.discard, ("old", "new"))
        _check_choice("atomic", self.atomic, (None, False, True))
        _check_choice("fast_ingest", self.fast_ingest, (None, False, True))
        _check_choice("store", self.store, (False, True))
        _check_choice("packed", self.packed, (False, True))
        if self.max_age_s is not None and self.dedup_window_s > self.max_age_s:
            object.__setattr__(self, "dedup_window_s", self.max_age_s)
        if self.store and self.packed:
            message = (
                "packed=True can't be combined with store=True: an event store appends each event under an expected "
                "version of its aggregate, so each event needs a message of its own"
            )
            raise ConfigError(message, argument="packed")
        if self.store and (limit := limit_on_old_events(self)):
            message = (
                f"{limit}={getattr(self, limit)!r} can't be combined with store=True: an event store needs all events "
                f"of an aggregate, and {limit} discards old ones"
            )
            hint = "" if limit == "max_age_s" else "; with discard='new' a full stream refuses new events instead"
            raise ConfigError(message + hint, argument=limit)


def limit_on_old_events(options: StreamOptions) -> str:
    """Return the name of the limit that discards old events; an empty string if there is none."""
    if options.max_age_s is not None:
        return "max_age_s"
    if options.discard == "old":
        for limit in ("max_bytes", "max_events"):
            if getattr(options, limit) is not None:
                return limit
    return ""


class StreamKeywords(TypedDict, total=False):
    """The settings of a stream as keywords of `conn.streams.update`; StreamOptions describes them."""

    replicas: int
    storage: Literal["file", "memory"]
    max_age_s: float | None
    max_bytes: int | None
    max_events: int | None
    dedup_window_s: float
    compression: Literal["s2"] | None
    discard: Literal["old", "new"]
    atomic: bool | None
    fast_ingest: bool | None
    store: bool
    packed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SubscriptionOptions:
    """Which events a subscription gets, in which order, and what happens to events that fail.

    `name`: the name under which the position is kept; None: the client's name, if durable. `backfill`: begin with the
    stream's first event instead of the next new event. `durable`: keep the position across restarts. `reset`: delete
    the kept position first. `serial`: handle events (with `batch`, lists of events) one at a time and in order; with
    "strict" the next event or list begins only when the position is stored. `exclusive`: one member is active while the
    others stand by. `key`: "aggregate", or a function of the event; events of equal keys are handled in order.
    `concurrency`: how many handlers run at the same time. `timeout_s`: how many seconds a handler may take. `start`:
    the stream sequence, or the time (an aware datetime), at which to begin.

    `types`, `aggregate`: only events of these types, of this aggregate; None: all. `on_filter_change`: what happens if
    the kept subscription has a different filter: "refuse", or "from_here" to apply the new one to the events that
    follow. `batch`: how many events are handled together at most; None: the handler gets single events. `linger_s`: how
    many seconds to wait at most for a full batch. `prefetch`, `prefetch_bytes`: how many events and bytes are held in
    memory at most.

    `lease_s`: after how many seconds other members get the events of a killed member. `circuit`: the number of failures
    in a row after which handling pauses; None: it never pauses. `retry`: the pauses between attempts, and how many
    attempts an event has at most. `dead_letter`: the stream for dead letters, in which `{stream}` stands for the name
    of the subscribed stream; None: dead letters are logged and skipped.
    """

    name: str | None = None
    backfill: bool = False
    durable: bool = False
    reset: bool = False
    serial: bool | Literal["strict"] = False
    exclusive: bool = False
    key: Literal["aggregate"] | Callable[[Any], Hashable] | None = None
    concurrency: int = 1
    timeout_s: float = 30.0
    start: int | datetime | None = None
    types: Collection[str] | None = None
    aggregate: str | None = None
    on_filter_change: Literal["refuse", "from_here"] = "refuse"
    batch: int | None = None
    linger_s: float = 0.01
    prefetch: int = 4096
    prefetch_bytes: int = 32 * 2**20
    lease_s: float = field(default_factory=lambda: DEFAULT_LEASE_S)
    circuit: int | None = 10
    retry: Retry = field(default_factory=Retry)
    dead_letter: str | None = "{stream}-dead"

    def __post_init__(self) -> None:
        _make_plain(self)
        self._check_each()
        if self.types is not None:
            object.__setattr__(self, "types", _as_types(self.types))
        self._check_together()

    def _check_each(self) -> None:
        """Raise ConfigError for an option whose value is wrong."""
        _check_matches("name", self.name, SUBSCRIPTION_NAME)
        for option in ("backfill", "durable", "reset", "exclusive"):
            _check_choice(option, getattr(self, option), (False, True))
        _check_choice("serial", self.serial, (False, True, "strict"))
        _check_choice("on_filter_change", self.on_filter_change, ("refuse", "from_here"))
        if not (self.key is None or self.key == "aggregate" or callable(self.key)):
            raise ConfigError(f"key must be 'aggregate' or a function, not {self.key!r}", argument="key")
        _check_int("concurrency", self.concurrency, 1, _MAX_CONCURRENCY)
        _check_number("timeout_s", self.timeout_s, above=0)
        _check_start(self.start)
        if self.aggregate is not None:
            _check_text("aggregate", self.aggregate)
        _check_int("prefetch", self.prefetch, 1, _MAX_CONCURRENCY)
        _check_int("prefetch_bytes", self.prefetch_bytes, 1, _MAX_INT)
        _check_int("batch", self.batch, 1, _MAX_CONCURRENCY, or_none=True)
        _check_number("linger_s", self.linger_s, least=0)
        _check_number("lease_s", self.lease_s, least=MIN_LEASE_S)
        _check_int("circuit", self.circuit, 1, _MAX_CONCURRENCY, or_none=True)
        if not isinstance(self.retry, Retry):
            raise ConfigError(f"retry must be a Retry, not {self.retry!r}", argument="retry")
        _check_matches("dead_letter", self.dead_letter, STREAM_NAME, placeholder="{stream}")

    def _check_together(self) -> None:
        """Raise ConfigError for options that contradict each other."""
        if self.start is not None and self.backfill:
            message = f"start={self.start!r} and backfill=True both say where to begin"
            raise ConfigError(message, argument="start")
        if self.batch is not None and self.key is not None:
            raise ConfigError(f"batch={self.batch} can't be combined with key={self.key!r}", argument="batch")
        if self.serial and self.concurrency > 1:
            message = f"concurrency={self.concurrency} can't be combined with serial={self.serial!r}"
            raise ConfigError(message, argument="concurrency")
        for option in ("serial", "exclusive", "key"):
            value = getattr(self, option)
            if value and self.name is not None and not self.durable:
                message = f"{option}={value!r} with name={self.name!r} needs durable=True"
                raise ConfigError(message, argument=option)
        if self.exclusive and not self.durable:
            message = "exclusive=True needs durable=True: without a kept position no other member can take over"
            raise ConfigError(message, argument="exclusive")
        is_private = self.name is None and not self.durable
        if self.lease_s != DEFAULT_LEASE_S and (self.serial or self.exclusive or self.key or is_private):
            message = (
                f"lease_s={self.lease_s!r} is for shared subscriptions (with a name, or durable, and without serial, "
                "exclusive and key); the lease of an ordered subscription is 5 s"
            )
            raise ConfigError(message, argument="lease_s")
        if self.reset and not self.durable:
            message = "reset=True needs durable=True: otherwise no position is kept that could be reset"
            raise ConfigError(message, argument="reset")
        for option in ("concurrency", "batch"):
            value = getattr(self, option)
            if value is not None and value > self.prefetch:
                raise ConfigError(f"{option}={value} is more than prefetch={self.prefetch}", argument=option)


def merge_options(options: SubscriptionOptions | None, overrides: Mapping[str, Any]) -> SubscriptionOptions:
    """Return the options with the overrides applied. Raises ConfigError for an unknown option or a wrong value."""
    if options is None:
        options = SubscriptionOptions()
    elif not isinstance(options, SubscriptionOptions):
        raise ConfigError(f"options must be SubscriptionOptions, not {options!r}", argument="options")
    check_known(SubscriptionOptions, overrides, "option")
    return replace(options, **overrides)


def check_known(kind: type, names: Collection[str], word: str) -> None:
    """Raise ConfigError, with a suggestion, for a name that is not a field of the dataclass."""
    known = [option.name for option in fields(kind)]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
            raise ConfigError(f"unknown {word} {name!r}{hint}", argument=name)


def _make_plain(options: Any) -> None:
    """Replace values of subclasses of str, int and float (a StrEnum) by plain ones: subclasses may override methods."""
    for option in fields(options):
        value = getattr(options, option.name)
        if isinstance(value, str) and type(value) is not str:
            object.__setattr__(options, option.name, str.__str__(value))
        elif isinstance(value, int) and type(value) not in (int, bool):
            object.__setattr__(options, option.name, int.__int__(value))
        elif isinstance(value, float) and type(value) is not float:
            object.__setattr__(options, option.name, float.__float__(value))


def _check_int(option: str, value: object, least: int, most: int, *, or_none: bool = False) -> None:
    if value is None and or_none:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        none = " or None" if or_none else ""
        message = f"{option} must be an int from {least} to {most}{none}, not {value!r}"
        raise ConfigError(message, argument=option)


def _check_number(
    option: str, value: object, *, least: float = 0, above: float | None = None, or_none: bool = False
) -> None:
    """Raise ConfigError unless the value is a number in the range. NaN and infinity are refused."""
    if value is None and or_none:
        return
    if isinstance(value, int | float) and not isinstance(value, bool):
        in_range = value >= least if above is None else value > above
        if in_range and value <= _MAX_S:
            return
    bound = f"{least:g} or more" if above is None else f"more than {above:g}"
    if isinstance(value, int | float) and value > _MAX_S:
        bound = f"at most {_MAX_S:g}"
    none = " or None" if or_none else ""
    raise ConfigError(f"{option} must be a number, {bound}{none}, not {value!r}", argument=option)


def _check_choice(option: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ConfigError unless the value is one of the choices. The type must be equal, too: 1 is not True."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{option} must be one of {listed}, not {value!r}", argument=option)


def _check_matches(option: str, value: object, pattern: re.Pattern[str], *, placeholder: str = "") -> None:
    """Raise ConfigError unless the value is None or matches the pattern. A placeholder counts as one letter."""
    if value is None:
        return
    text = value.replace(placeholder, "x") if isinstance(value, str) and placeholder else value
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ConfigError(f"{option} must match {pattern.pattern}, not {value!r}", argument=option)


def _check_text(option: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{option} must be a str, not {value!r}", argument=option)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{option} {value!r} is not valid Unicode", argument=option) from error


def _check_start(start: object) -> None:
    if isinstance(start, datetime):
        if start.utcoffset() is None:
            message = f"start must be an aware datetime, {start!r} has no time zone"
            raise ConfigError(message, argument="start")
    elif start is not None and (not isinstance(start, int) or isinstance(start, bool) or not 0 < start < 2**63):
        message = f"start must be a stream sequence from 1 or an aware datetime, not {start!r}"
        raise ConfigError(message, argument="start")


def _as_types(types: object) -> tuple[str, ...]:
    """Return the types without repetition, in the given order; sorted if they are a set."""
    if isinstance(types, str):
        message = f"types must be a list of types, not a str: write types=[{types!r}]"
        raise ConfigError(message, argument="types")
    if not isinstance(types, Collection) or isinstance(types, bytes | bytearray | Mapping):
        raise ConfigError(f"types must be a list of types, not {types!r}", argument="types")
    if not types:
        raise ConfigError("types must not be empty: no event would match; None matches all", argument="types")
    for type_ in types:
        _check_text("types", type_)
    plain = map(str.__str__, types)
    return tuple(sorted(plain) if isinstance(types, set | frozenset) else dict.fromkeys(plain))
