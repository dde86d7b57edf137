"""The slow parts of decoding a payload: old schemas, other encodings, and errors."""

from __future__ import annotations

from typing import Any

from eda import encodings
from eda.errors import ConfigError, DecodeError, UnknownType
from eda.typed.registry import payload_class_for, payload_class_of
from eda.typed.upcasters import upcasters_of

__all__ = ["contradiction", "decode_slowly", "payload_error", "undeclared"]


def decode_slowly(type: str, schema: str, encoding: str, data: bytes, event_id: str) -> Any:
    """Return the payload of an event that the decoder of its class can't read directly.

    Raises UnknownType, UnknownEncoding, and DecodeError for all other failures.
    """
    declared = payload_class_for(type)
    if declared is None:
        raise UnknownType(type, encoding=encoding, event_id=event_id)
    plain = encodings.decode_value(encoding, data, None, event_id)
    steps = upcasters_of(type)
    current = schema
    while declared.schema and current != declared.schema:
        step = steps.get(current)
        if step is None:
            raise DecodeError(encoding, f"no upcaster from schema {current!r} of {type!r}", event_id=event_id)
        plain = step.function(plain)
        current = step.new
    try:
        return encodings.convert_plain(plain, declared.cls)
    except Exception as error:
        raise payload_error(type, schema, encoding, error, event_id) from error


def payload_error(type: str, schema: str, encoding: str, error: Exception, event_id: str) -> DecodeError:
    """Return the DecodeError for data that does not fit its class."""
    shown = f" (schema {schema!r})" if schema else ""
    declared = payload_class_for(type)
    assert declared is not None
    reason = f"{type!r}{shown} does not fit {declared.cls.__name__}: {encodings.reason_of(error)}"
    return DecodeError(encoding, reason, event_id=event_id)


def undeclared(value: object) -> ConfigError:
    """Return the error for an event's data that is neither Data nor an instance of a payload class."""
    return ConfigError(
        "data must be made by eda.JSON, eda.Bytes, eda.String, eda.Proto or eda.MsgPack, or be an instance of a class "
        f"that is declared with eda.payload, not {type(value).__name__}",
        argument="data",
    )


def contradiction(field: str, given: object, value: object) -> ConfigError:
    """Return the error for a given type or schema that is not that of the payload's class."""
    declared = payload_class_of(type(value))
    assert declared is not None
    wanted = declared.type if field == "type" else declared.schema
    return ConfigError(
        f"{field} must not be given, or be {wanted!r} as {type(value).__name__} is declared, not {given!r}",
        argument=field,
    )
