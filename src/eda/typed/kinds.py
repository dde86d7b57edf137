"""The kinds of payload classes: dataclass, msgspec.Struct, pydantic model, attrs class and protobuf message.

pydantic, attrs and protobuf are recognised by attributes of the class and never imported, because an import of any of
them would slow the start of every program.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import msgspec

from eda.errors import ConfigError

__all__ = ["check_kind", "default_encoding", "fitting_encodings", "kind_of", "shown_class", "shown_kind"]

# The built-in encodings that can't write an object, or a protobuf message.
_NOT_FOR_OBJECTS = {"bytes", "string", "nil", "proto"}
_NOT_FOR_MESSAGES = {"bytes", "string", "nil", "json", "msgpack"}


def shown_class(cls: type[Any]) -> str:
    """Return the class's name with its module, for errors. It never goes to the server."""
    return f"{cls.__module__}.{cls.__qualname__}"


def shown_kind(kind: str) -> str:
    """Return the name of a kind, for errors."""
    return {"protobuf": "protobuf message", "pydantic": "pydantic model", "attrs": "class of attrs"}.get(kind, kind)


def kind_of(cls: type[Any]) -> str:
    """Return "pydantic", "protobuf", "Struct", "attrs" or "dataclass"; "" for a class of another kind.

    A class that was not decorated itself counts as a dataclass or attrs class only if it adds no annotations to its
    base: fields that it adds would be no fields of the dataclass.
    """
    if hasattr(cls, "model_validate_json") and hasattr(cls, "model_fields"):
        return "pydantic"
    if hasattr(cls, "FromString") and hasattr(getattr(cls, "DESCRIPTOR", None), "fields"):
        return "protobuf"
    if issubclass(cls, msgspec.Struct):
        return "Struct"
    for mark, kind in (("__attrs_attrs__", "attrs"), ("__dataclass_fields__", "dataclass")):
        if mark in vars(cls) or (hasattr(cls, mark) and not _has_own_annotations(cls)):
            return kind
    return ""


def check_kind(cls: Any) -> str:
    """Return the kind of a class. Raises ConfigError for anything that can't be a payload class, and says why."""
    if not isinstance(cls, type) or typing.get_origin(cls) is not None:
        hint = ""
        if isinstance(typing.get_origin(cls), type):
            hint = ". For a generic class with given types, declare a subclass: class OrderBox(Box[Order])"
        raise ConfigError(f"eda.payload must stand above a class, not {cls!r}{hint}")
    name = shown_class(cls)
    kind = kind_of(cls)
    if not kind:
        hint = ""
        if _has_own_annotations(cls) or any(type(value).__name__ == "_CountingAttr" for value in vars(cls).values()):
            hint = ". A class has no fields before it is decorated: write @eda.payload above @dataclass or @define"
        raise ConfigError(
            f"{name} is not a dataclass, msgspec.Struct, pydantic model, attrs class or protobuf message{hint}"
        )
    if kind == "dataclass" and hasattr(cls, "__pydantic_validator__"):
        raise ConfigError(
            f"{name} is a dataclass of pydantic; a payload class of pydantic must be a pydantic.BaseModel"
        )
    if not _field_names(cls, kind):
        raise ConfigError(f"{name} has no fields, so there is nothing to encode. An event without data needs no class")
    if inspect.isabstract(cls):
        raise ConfigError(f"{name} is abstract, so no payload can be an instance of it")
    return kind


def _field_names(cls: type[Any], kind: str) -> list[str]:
    """Return the names of the fields of a class of this kind."""
    if kind == "pydantic":
        return list(cls.model_fields)
    if kind == "protobuf":
        return [field.name for field in cls.DESCRIPTOR.fields]
    if kind == "Struct":
        return list(cls.__struct_fields__)
    if kind == "attrs":
        return [field.name for field in cls.__attrs_attrs__]
    return [field.name for field in dataclasses.fields(cls)]


def default_encoding(kind: str) -> str:
    """Return the encoding of a class that names none."""
    return "proto" if kind == "protobuf" else "json"


def fitting_encodings(kind: str, encoding: str) -> str:
    """Return "" if a class of this kind can have the encoding. Else return the built-in encodings that fit, as text."""
    if kind == "protobuf":
        return "proto" if encoding in _NOT_FOR_MESSAGES else ""
    return "json or msgpack" if encoding in _NOT_FOR_OBJECTS else ""


def _has_own_annotations(cls: type[Any]) -> bool:
    # From Python 3.14 onwards a class has a function for its annotations, which need not be evaluated here.
    return any(vars(cls).get(name) for name in ("__annotations__", "__annotate_func__", "__annotate__"))
