"""Which payloads are read back from their bytes as they were written, so that a copy need not be decoded."""

from __future__ import annotations

from types import MemberDescriptorType
from typing import Any

import msgspec

from eda.typed.registry import MADE_AS

__all__ = ["PLAIN_FIELDS", "plain_fields"]

_PLAIN = frozenset({str, int, bool, float})

# For each class that was asked for, what `plain_fields` returns.
PLAIN_FIELDS: dict[type[Any], tuple[tuple[MemberDescriptorType, type[Any]], ...] | None] = {}


def plain_fields(cls: type[Any]) -> tuple[tuple[MemberDescriptorType, type[Any]], ...] | None:
    """Return the fields of a payload class and their types, if a payload with such values is read back as it is.

    Return None for all other classes: those whose payloads can be changed, whose values have types of their own, or
    whose code runs when a payload is decoded. A value must have exactly the type of its field.
    """
    if cls not in PLAIN_FIELDS:
        PLAIN_FIELDS[cls] = _plain_fields(cls)
    return PLAIN_FIELDS[cls]


def _plain_fields(cls: type[Any]) -> tuple[tuple[MemberDescriptorType, type[Any]], ...] | None:
    if MADE_AS.get(cls, ("",))[0] not in ("json", "msgpack") or not issubclass(cls, msgspec.Struct):
        return None
    config = cls.__struct_config__
    if not config.frozen or config.dict or hasattr(cls, "__post_init__"):
        return None
    try:
        fields = tuple((getattr(cls, each.name), each.type) for each in msgspec.structs.fields(cls))
    except (NameError, TypeError):
        return None
    is_plain = all(kind in _PLAIN and type(member) is MemberDescriptorType for member, kind in fields)
    return fields if is_plain else None
