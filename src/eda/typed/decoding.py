"""The slow parts of the one way from an event to its payload: old schemas, other encodings, and errors."""

from __future__ import annotations

import inspect
import types
from typing import Any

from eda import encodings
from eda.errors import ConfigError, DecodeError, UnknownEncoding, UnknownType
from eda.typed.kinds import kind_of
from eda.typed.registry import MADE_AS, PayloadClass, make_usable, payload_class_for, payload_class_of
from eda.typed.upcasters import Upcaster, chain_of, upcasters_of

__all__ = ["class_entry", "contradiction", "decode_slowly", "payload_error"]


def decode_slowly(type: str, schema: str, encoding: str, data: bytes, event_id: str) -> Any:
    """Return the payload of an event that the decoder of its class can't read directly.

    Raises UnknownType, UnknownEncoding, and DecodeError for data that does not fit. Raises ConfigError if the class
    itself can't be used yet.
    """
    declared = payload_class_for(type)
    if declared is None:
        raise UnknownType(type, encoding=encoding, event_id=event_id)
    make_usable(declared)
    try:
        chain = chain_of(declared, schema)
        if chain is None:
            raise _Unfit(_no_chain(declared, schema))
        if encoding == declared.encoding and not chain:
            return encodings.decoder_of(encoding, declared.cls)(data)
        if "proto" in (encoding, declared.encoding):
            needed = "only a protobuf class can read" if encoding == "proto" else "a protobuf class can't read"
            raise _Unfit(f"its encoding is {encoding!r}, which {needed}")
        plain = encodings.decode_plain(encoding, data)
        for step in chain:
            plain = _upcast(step, plain)
        return encodings.convert_plain(encoding, plain, declared.cls)
    except UnknownEncoding as error:
        error.event_id = event_id
        raise
    except _Unfit as error:
        raise _decode_error(type, schema, encoding, str(error), event_id) from error.__cause__
    except Exception as error:
        raise payload_error(type, schema, encoding, error, event_id) from error


def payload_error(type: str, schema: str, encoding: str, error: Exception, event_id: str) -> DecodeError:
    """Return the error for data that does not fit the class of its type."""
    return _decode_error(type, schema, encoding, encodings.reason_of(error), event_id)


def class_entry(value: object) -> tuple[str, str, str]:
    """Return the entry in MADE_AS for the class of a payload. Raises ConfigError if the class can't be used."""
    cls = type(value)
    declared = payload_class_of(cls)
    if declared is not None:
        make_usable(declared)
        return MADE_AS[cls]
    how = ""
    base = next((each for each in cls.__mro__ if payload_class_of(each) is not None), None)
    if base is not None:
        how = f": it is a subclass of {base.__name__}, but only {base.__name__} itself is declared. Declare it, too"
    elif isinstance(value, type) and payload_class_of(value) is not None:
        how = f": it is the class {value.__name__}, not an instance of it"
    elif kind_of(cls):
        how = (
            f', which is not declared: write @eda.payload("…") above class {cls.__name__}, with the type of its events'
        )
    raise ConfigError(
        "data must be made by eda.JSON, eda.Bytes, eda.String, eda.Proto or eda.MsgPack, or be an instance of a class "
        f"that is declared with eda.payload, not {cls.__name__}{how}",
        argument="data",
    )


def contradiction(field: str, given: object, value: object) -> ConfigError:
    """Return the error for a given type or schema that is not that of the payload's class."""
    declared = payload_class_of(type(value))
    assert declared is not None
    own = declared.type if field == "type" else declared.schema
    return ConfigError(
        f"{field} {given!r} contradicts the data: {type(value).__name__} is declared with {field} {own!r}. Leave "
        f"{field} out, or publish the data untyped, with eda.JSON(value)",
        argument=field,
    )


class _Unfit(Exception):
    """Data that can't be decoded into the class of its type. The text says why."""


def _decode_error(type: str, schema: str, encoding: str, why: str, event_id: str) -> DecodeError:
    declared = payload_class_for(type)
    assert declared is not None
    shown = f"schema {schema!r}" if schema else "no schema"
    # Without the class's module: the text may become a header of a dead letter.
    reason = f"type {type!r} ({shown}) into {declared.cls.__name__}: {why}"
    return DecodeError(encoding, reason, event_id=event_id)


def _no_chain(declared: PayloadClass, schema: str) -> str:
    if declared.kind == "protobuf":
        return f"the class reads only schema {declared.schema!r}, and a protobuf message can have no upcasters"
    readable = [declared.schema]
    readable += sorted(old for old in upcasters_of(declared.type) if chain_of(declared, old))
    return (
        f"the class reads only schema {', '.join(map(repr, readable))}. If {schema!r} is older, declare an upcaster "
        "from it (eda.upcast); if it is newer, update this program"
    )


def _upcast(step: Upcaster, plain: Any) -> Any:
    what = f"the upcaster from schema {step.old!r} to {step.new!r}"
    try:
        result = step.function(plain)
    except Exception as error:
        raise _Unfit(f"{what} raised {encodings.reason_of(error)}") from error
    if result is None:
        raise _Unfit(f"{what} returned None; it must return the new data")
    if inspect.isawaitable(result) or isinstance(result, types.GeneratorType | types.AsyncGeneratorType):
        if inspect.iscoroutine(result):
            result.close()
        raise _Unfit(f"{what} returned {type(result).__name__}; it must return the new data")
    return result
