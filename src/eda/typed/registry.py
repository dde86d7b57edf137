"""The payload classes of this process: declared with `payload`, found by class, by type and by alias."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeVar

from eda import encodings
from eda.errors import ConfigError
from eda.typed.kinds import field_names, kind_of

__all__ = [
    "DECODERS",
    "MADE_AS",
    "PayloadClass",
    "payload",
    "payload_class_for",
    "payload_class_of",
    "payload_classes",
]

C = TypeVar("C", bound="type[Any]")


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
        return f"<PayloadClass {self.type!r}: {self.cls.__module__}.{self.cls.__qualname__}>"


# Two tables for compiled code. By class: (encoding, type, schema) of an event that is made from a payload.
MADE_AS: dict[type[Any], tuple[str, str, str]] = {}
# By type and alias: (encoding, schema or None for any, decode). An event that fits is decoded by `decode(bytes)`.
DECODERS: dict[str, tuple[str, str | None, Callable[[bytes], Any]]] = {}

_by_class: dict[type[Any], PayloadClass] = {}
_by_type: dict[str, PayloadClass] = {}  # types and aliases
_lock = RLock()


def payload(
    type: str, *, schema: str = "", aliases: Iterable[str] = (), encoding: str | None = None
) -> Callable[[C], C]:
    """Return a decorator that declares a class as the payload of the events of this type.

    The class is a dataclass, a msgspec.Struct, a pydantic model, an attrs class or a protobuf message. The decorator
    must stand above `@dataclass` and `@define`. `eda.Event(data=OrderPaid(30))` then takes type, schema and encoding
    from the class, and `event.payload()` decodes into the class.

    `schema`: the schema that the class reads and writes. Events of older schemas need upcasters (`eda.upcast`). Without
    `schema`, the class reads events of any schema. `aliases`: other types that are decoded into this class, such as
    former names. `encoding`: "json" if not given, "proto" for a protobuf message.

    Raises ConfigError if a value is wrong, if the class can't be a payload class, or if the type or an alias is already
    declared.
    """

    def declare(cls: C) -> C:
        kind = kind_of(cls)
        if not kind:
            raise ConfigError(f"{cls.__qualname__} is not a class that eda knows how to encode")
        if not field_names(cls, kind):
            raise ConfigError(f"{cls.__qualname__} has no fields")
        name = encoding or ("proto" if kind == "protobuf" else "json")
        _register(PayloadClass(cls, type, schema, tuple(aliases), name, kind))
        return cls

    return declare


def _register(declared: PayloadClass) -> None:
    with _lock:
        for name in (declared.type, *declared.aliases):
            other = _by_type.get(name)
            if other is not None:
                where = f"{other.cls.__module__}.{other.cls.__qualname__}"
                raise ConfigError(f"type {name!r} is already declared by {where}", argument="type")
        _by_class[declared.cls] = declared
        MADE_AS[declared.cls] = (declared.encoding, declared.type, declared.schema)
        decode = encodings.decoder_of(declared.encoding, declared.cls)
        for name in (declared.type, *declared.aliases):
            _by_type[name] = declared
            DECODERS[name] = (declared.encoding, declared.schema or None, decode)


def payload_class_of(cls: type[Any]) -> PayloadClass | None:
    """Return the declaration of exactly this class; None if the class was not declared."""
    return _by_class.get(cls)


def payload_class_for(type: str) -> PayloadClass | None:
    """Return the payload class for this type or alias; None if no class declares it."""
    return _by_type.get(type)


def payload_classes() -> list[PayloadClass]:
    """Return all declared payload classes, in the order of their declarations."""
    return list(_by_class.values())
