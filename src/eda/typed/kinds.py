"""The kinds of payload classes: dataclass, msgspec.Struct, pydantic model, attrs class and protobuf message.

pydantic, attrs and protobuf are recognised by their attributes and never imported, because an import of any of them
would slow the start of every program.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

__all__ = ["field_names", "kind_of"]


def kind_of(cls: type[Any]) -> str:
    """Return "pydantic", "protobuf", "Struct", "attrs" or "dataclass"; "" for a class of another kind."""
    if hasattr(cls, "model_validate_json") and hasattr(cls, "model_fields"):
        return "pydantic"
    if hasattr(cls, "FromString") and hasattr(cls, "SerializeToString"):
        return "protobuf"
    if issubclass(cls, msgspec.Struct):
        return "Struct"
    if "__attrs_attrs__" in vars(cls):
        return "attrs"
    return "dataclass" if "__dataclass_fields__" in vars(cls) else ""


def field_names(cls: type[Any], kind: str) -> list[str]:
    """Return the names of the fields of a class of this kind."""
    if kind == "pydantic":
        return list(cls.model_fields)
    if kind == "protobuf":
        return [field.name for field in cls.DESCRIPTOR.fields]
    if kind == "Struct":
        return list(cls.__struct_fields__)
    if kind == "attrs":
        return [field.name for field in vars(cls)["__attrs_attrs__"]]
    return [field.name for field in dataclasses.fields(cls)]
