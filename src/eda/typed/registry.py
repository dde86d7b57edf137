"""The payload classes of this process: declared with `payload`, found by class, by type and by alias."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeVar

from eda import encodings
from eda.errors import ConfigError
from eda.typed.kinds import check_kind, default_encoding, fitting_encodings, shown_class, shown_kind
from eda.typed.round_trip import check_round_trip

__all__ = [
    "DECODERS",
    "LOCK",
    "MADE_AS",
    "PayloadClass",
    "check_text",
    "check_type",
    "make_usable",
    "n_declared",
    "payload",
    "payload_class_for",
    "payload_class_of",
    "payload_classes",
]

C = TypeVar("C", bound="type[Any]")

# The subject of an event, `<stream>.<type>.<aggregate>`, must fit into a line of the protocol (4,096 bytes). So a type
# must leave room for a stream's name (64), a reply subject and sizes (128), and an aggregate.
MAX_TYPE_BYTES = 2048
_ESCAPED = frozenset(map(chr, (*range(0x21), 0x7F, *b".*>%")))  # in a subject each of these takes three bytes


@dataclass(frozen=True, slots=True, eq=False)
class PayloadClass:
    """A declared class: the type, schema and encoding of its events, and the other types under which it reads them.

    `schema` is empty if the class reads events of any schema. `kind` is as `kind_of` returns it.
    """

    cls: type[Any]
    type: str
    schema: str
    aliases: tuple[str, ...]
    encoding: str
    kind: str

    def __repr__(self) -> str:
        return f"<PayloadClass {self.type!r}: {shown_class(self.cls)}>"


# Two tables for compiled code. By class: (encoding, type, schema) of an event that is made from a payload.
MADE_AS: dict[type[Any], tuple[str, str, str]] = {}
# By type and alias: (encoding, schema or None for any, decode). An event that fits is decoded by `decode(bytes)`.
DECODERS: dict[str, tuple[str, str | None, Callable[[bytes], Any]]] = {}

# A class that can't be used yet is in these two tables, but not in the tables above. Nothing is ever removed.
_by_class: dict[type[Any], PayloadClass] = {}
_by_type: dict[str, PayloadClass] = {}  # types and aliases

# A thread holds this lock while it declares a class or makes it usable. Readers need no lock, because entries are only
# added, and each entry is complete when it is added.
LOCK = RLock()


class _NotYet(Exception):
    """A reason why a class can't be used now, but perhaps later."""


def payload(
    type: str, *, schema: str = "", aliases: Iterable[str] = (), encoding: str | None = None
) -> Callable[[C], C]:
    """Return a decorator that declares a class as the payload of the events of this type.

    The class is a dataclass, a msgspec.Struct, a pydantic model, an attrs class or a protobuf message. The decorator
    stands above `@dataclass` and `@define`. `eda.Event(data=OrderPaid(30))` then takes type, schema and encoding from
    the class, and `event.payload()` decodes into the class. A subclass is not declared with its base.

    `schema`: the schema that the class writes and reads. Events of other schemas need upcasters (`eda.upcast`). Without
    `schema`, the class reads events of any schema. `aliases`: other types whose events are decoded into this class,
    such as a former name of the type. `encoding`: "json" if it is not given, "proto" for a protobuf message.

    Raises ConfigError if an argument is wrong, if the class can't be a payload class or one of its fields can't be
    decoded again, and if the class, the type or an alias is declared already. If an annotation of the class names
    something that is not defined yet, or if the encoding is not registered yet, the class is checked again at its first
    use and by `eda.connect`.
    """
    type, schema = check_type("type", type), check_text("schema", schema)
    names = _check_aliases(type, aliases)
    if encoding is not None and (not isinstance(encoding, str) or not encoding):
        raise ConfigError(f"encoding must be the name of an encoding, or None, not {encoding!r}", argument="encoding")

    def declare(cls: C) -> C:
        kind = check_kind(cls)
        name = sys.intern(str.__str__(encoding or default_encoding(kind)))
        fitting = fitting_encodings(kind, name)
        if fitting:
            raise ConfigError(
                f"encoding {name!r} does not fit {shown_class(cls)}, which is a {shown_kind(kind)}; it can have "
                f"{fitting}, or an encoding that eda.register_encoding registered",
                argument="encoding",
            )
        declared = PayloadClass(cls, type, schema, names, name, kind)
        with LOCK:
            _check_free(declared)
            try:
                decode = _decoder_of(declared)
            except _NotYet:
                decode = None
            _by_class[cls] = declared
            for each in (type, *names):
                _by_type[each] = declared
            if decode is not None:
                _put_into_tables(declared, decode)
        return cls

    return declare


def make_usable(declared: PayloadClass) -> None:
    """Check a declared class if its declaration could not do so. Raises ConfigError if it still can't be used."""
    if declared.cls in MADE_AS:
        return
    with LOCK:
        try:
            _put_into_tables(declared, _decoder_of(declared))
        except _NotYet as error:
            raise ConfigError(f"payload class {shown_class(declared.cls)} can't be used: {error}") from error


def payload_class_of(cls: type[Any]) -> PayloadClass | None:
    """Return the declaration of exactly this class; None if the class was not declared."""
    return _by_class.get(cls)


def payload_class_for(type: str) -> PayloadClass | None:
    """Return the payload class for this type or alias; None if no class declares it."""
    return _by_type.get(type)


def payload_classes() -> list[PayloadClass]:
    """Return all declared payload classes, in the order of their declarations."""
    return list(_by_class.values())


def n_declared() -> int:
    """Return how many classes are declared."""
    return len(_by_class)


def check_type(argument: str, value: object) -> str:
    """Return the name of a type as a plain str. Raises ConfigError for a name that no event can have."""
    if isinstance(value, type) and argument == "type":
        raise ConfigError(
            f'type must be the type of the events, not a class: write @eda.payload("{value.__name__.lower()}")',
            argument=argument,
        )
    if not isinstance(value, str) or not value:
        what = "an alias" if argument == "aliases" else argument
        raise ConfigError(f"{what} must be a str that is not empty, not {value!r}", argument=argument)
    text = check_text(argument, value)
    n_bytes = len(text.encode()) + 2 * sum(char in _ESCAPED for char in text)
    if n_bytes > MAX_TYPE_BYTES:
        raise ConfigError(
            f"{argument} {text[:40]!r}… takes {n_bytes} bytes in a subject, and {MAX_TYPE_BYTES} are allowed",
            argument=argument,
        )
    return text


def check_text(argument: str, value: object) -> str:
    """Return a text, such as a schema, as a plain str. Raises ConfigError if it is not a str or not valid Unicode."""
    if not isinstance(value, str):
        raise ConfigError(f"{argument} must be a str, not {value!r}", argument=argument)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{argument} {value!r} is not valid Unicode", argument=argument) from error
    return sys.intern(str.__str__(value))  # a plain str, also for a subclass such as StrEnum


def _check_aliases(type: str, aliases: Iterable[str]) -> tuple[str, ...]:
    if isinstance(aliases, str) or not isinstance(aliases, Iterable):
        raise ConfigError(f"aliases must be a list of types, not {aliases!r}", argument="aliases")
    names = tuple(check_type("aliases", each) for each in aliases)
    for i, name in enumerate(names):
        if name == type:
            raise ConfigError(f"alias {name!r} is the type itself", argument="aliases")
        if name in names[:i]:
            raise ConfigError(f"alias {name!r} is given twice", argument="aliases")
    return names


def _check_free(declared: PayloadClass) -> None:
    same = _by_class.get(declared.cls)
    if same is not None:
        raise ConfigError(
            f"{shown_class(declared.cls)} is already declared for type {same.type!r}; give other types as aliases"
        )
    for name in (declared.type, *declared.aliases):
        other = _by_type.get(name)
        if other is not None:
            which = "as its type" if other.type == name else "as an alias"
            raise ConfigError(
                f"type {name!r} can't be declared for {shown_class(declared.cls)}: {shown_class(other.cls)} has it "
                f"{which} already",
                argument="type" if name == declared.type else "aliases",
            )


def _decoder_of(declared: PayloadClass) -> Callable[[bytes], Any]:
    """Check a class, and return its decoder. Raises ConfigError if it can never be used, _NotYet if it can't be now."""
    if not encodings.is_registered(declared.encoding):
        raise _NotYet(f"its encoding {declared.encoding!r} is not registered; see eda.register_encoding")
    try:
        check_round_trip(declared.cls, declared.kind, declared.encoding)
        return encodings.decoder_of(declared.encoding, declared.cls)
    except NameError as error:
        missing = f"an annotation names {error.name!r}, which is not defined" if error.name else str(error)
        raise _NotYet(f"{missing} in module {declared.cls.__module__}") from error
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{shown_class(declared.cls)} can't be a payload class: {encodings.reason_of(error)}"
        ) from error


def _put_into_tables(declared: PayloadClass, decode: Callable[[bytes], Any]) -> None:
    """Let compiled code find a class that was checked."""
    for name in (declared.type, *declared.aliases):
        DECODERS[name] = (declared.encoding, declared.schema or None, decode)
    MADE_AS[declared.cls] = (declared.encoding, declared.type, declared.schema)
