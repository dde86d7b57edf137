"""Encodings by name: each turns a value into the payload of an event, and back.

The built-in ones are `bytes`, `string`, `json`, `msgpack`, `proto` and `nil`; `register_encoding` adds others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgpack
import msgspec

from eda.errors import ConfigError, DecodeError, EncodeError, UnknownEncoding

__all__ = [
    "convert_plain",
    "decode_plain",
    "decode_value",
    "decoder_of",
    "encode_value",
    "is_registered",
    "json_encoder",
    "reason_of",
    "refuse_nonfinite",
    "register_encoding",
]

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]

_MAX_NAME_BYTES = 64
_MAX_REASON = 500

# NaN and the infinities as MessagePack: 0xCB and an exponent of all ones. No text in UTF-8 has these bytes.
_NONFINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


def register_encoding(name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
    """Register an encoding, or replace one that was registered before.

    `name`: 1 to 64 bytes of UTF-8, and not the name of a built-in encoding. `encode` returns bytes for a value;
    `decode` returns a value for bytes. If they raise an exception, the caller gets an EncodeError or DecodeError that
    is chained from it. Raises ConfigError for a wrong name, and for an `encode` or `decode` that can't be called.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"name must be a str that is not empty, not {name!r}", argument="name")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"name {name!r} is not valid Unicode", argument="name") from error
    if size > _MAX_NAME_BYTES:
        raise ConfigError(f"name {name!r} is longer than {_MAX_NAME_BYTES} bytes", argument="name")
    name = str.__str__(name)  # a plain str, also for a subclass such as StrEnum
    if name in _BUILT_IN:
        raise ConfigError(f"name {name!r} is a built-in encoding", argument="name")
    for argument, function in (("encode", encode), ("decode", decode)):
        if not callable(function):
            raise ConfigError(f"{argument} must be callable, not {function!r}", argument=argument)
    _registry[name] = (encode, decode)


def is_registered(name: str) -> bool:
    """Return whether the encoding is built in or was registered."""
    return name in _registry


def encode_value(name: str, value: Any) -> bytes:
    """Encode the value with the encoding of that name.

    JSON has no NaN and no infinities. A value that contains one is refused, rather than stored as null. Raises
    UnknownEncoding for a name that is not registered, and EncodeError, chained from its cause, for any other failure.
    """
    try:
        encode, _ = _registry[name]
    except KeyError:
        raise UnknownEncoding(name, value_type=type(value).__qualname__) from None
    try:
        data = encode(value)
    except Exception as error:
        raise EncodeError(name, type(value).__qualname__, reason_of(error)) from error
    if not isinstance(data, bytes):
        reason = f"its encoder gave {type(data).__qualname__}, not bytes"
        raise EncodeError(name, type(value).__qualname__, reason)
    return data if type(data) is bytes else bytes(data)


def decode_value(name: str, data: bytes, into: Any = None, event_id: str = "") -> Any:
    """Decode the bytes with the encoding of that name, into the type `into` if it is given.

    `into` may be any type that msgspec converts to (dataclass, TypedDict, Struct, attrs, `list[int]` …) or a pydantic
    model. For `proto` it is the message class, and required. Raises ConfigError for `proto` without it, UnknownEncoding
    for a name that is not registered, and DecodeError, chained from its cause, for any other failure.
    """
    try:
        _, decode = _registry[name]
    except KeyError:
        raise UnknownEncoding(name, event_id=event_id) from None
    if name == "proto" and not hasattr(into, "FromString"):
        raise ConfigError(f"into must be the message class to decode proto, not {into!r}", argument="into")
    try:
        if into is None:
            return decode(data)
        if name == "json":
            return _decode_json_into(data, into)
        if name == "proto":
            return into.FromString(data)
        return _convert(decode(data), into)
    except Exception as error:
        raise DecodeError(name, reason_of(error), event_id=event_id) from error


def reason_of(error: Exception) -> str:
    """Return the error's type and text, at most 500 characters: some texts repeat the whole input.

    The text of a pydantic error has the values that were refused. They are left out, because the reason goes into log
    lines and into the headers of dead letters, where nobody expects personal data.
    """
    try:
        text = _without_values(error) or str(error)
    except Exception:  # the error's own __str__ has failed
        text = "it has no text"
    text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"


def _without_values(error: Exception) -> str:
    """Return the findings of a pydantic ValidationError, each with the path of its field; "" for any other error."""
    if type(error).__module__ != "pydantic_core._pydantic_core" or not hasattr(error, "errors"):
        return ""
    findings = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'the value'}: {each['msg']} ({each['type']})" for each in findings
    )


def decoder_of(name: str, cls: type[Any]) -> Decode:
    """Return a function that decodes bytes of this encoding into the class. The function may raise any exception.

    If the encoding is registered again, the function uses the new registration.
    """
    if name == "json":
        if hasattr(cls, "model_validate_json"):
            return cls.model_validate_json  # type: ignore[no-any-return]
        return msgspec.json.Decoder(cls, dec_hook=_into_foreign_json).decode
    if name == "proto":
        return cls.FromString  # type: ignore[no-any-return]
    return lambda data: convert_plain(name, decode_plain(name, data), cls)


def decode_plain(name: str, data: bytes) -> Any:
    """Return the plain value in bytes of this encoding. Raises UnknownEncoding, or any exception of the decoder."""
    try:
        _, decode = _registry[name]
    except KeyError:
        raise UnknownEncoding(name) from None
    return decode(data)


def convert_plain(name: str, plain: Any, cls: type[Any]) -> Any:
    """Return the plain value that bytes of this encoding have as an instance of the class. May raise any exception."""
    if type(plain) is cls:
        return plain
    if hasattr(cls, "model_validate"):
        # A strict model accepts a text for a date, or a list for a set, only if it knows that they come from JSON.
        return cls.model_validate_json(_encode_json(plain)) if name == "json" else cls.model_validate(plain)
    # JSON has only texts as keys, so a text may be read as a number or a date.
    hook = _into_foreign_json if name == "json" else _into_foreign
    return msgspec.convert(plain, cls, str_keys=True, dec_hook=hook)


def _encode_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("expected bytes, bytearray or memoryview")
    return bytes(value)


def _encode_string(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("expected str")
    return str.encode(value)


def _decode_string(data: bytes) -> str:
    return str(data, "utf-8")


def _plain(value: Any) -> Any:
    """Convert a value of a type that msgspec does not know: a pydantic model, or a subclass of str, int or float."""
    if hasattr(type(value), "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"{type(value).__qualname__} is not supported")


json_encoder: msgspec.json.Encoder = msgspec.json.Encoder(enc_hook=_plain)  # for compiled code as well
_json_probe = msgspec.msgpack.Encoder(enc_hook=_plain)


def _encode_json(value: Any) -> bytes:
    data = json_encoder.encode(value)
    # msgspec writes NaN and the infinities as null. Without a null in the bytes the check costs nothing; with one it
    # takes about twice as long as the encoding (0.7 µs instead of 0.3).
    if b"null" in data:
        refuse_nonfinite(value)
    return data


def refuse_nonfinite(value: Any) -> None:
    """Raise ValueError if the value holds NaN or an infinity."""
    try:
        if not _NONFINITE.search(_json_probe.encode(value)):
            return
    except OverflowError:
        pass  # an integer of more than 64 bits: JSON has them, MessagePack does not
    # The pattern may also match inside integers and binary values, so the slow check decides.
    json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=_plain), allow_nan=False)


def _encode_msgpack(value: Any) -> bytes:
    data: bytes = msgpack.packb(value, use_bin_type=True, datetime=True, default=_plain_for_msgpack)
    return data


def _plain_for_msgpack(value: Any) -> Any:
    """Convert a value of a type that msgpack does not know, such as a dataclass."""
    if hasattr(type(value), "model_dump"):
        return value.model_dump(by_alias=True)
    return msgspec.to_builtins(value, builtin_types=(bytes, bytearray, datetime), enc_hook=_plain)


def _decode_msgpack(data: bytes) -> Any:
    return msgpack.unpackb(data, raw=False, timestamp=3, strict_map_key=False)


def _encode_proto(value: Any) -> bytes:
    # Only messages have this method. A check of the class would need an import of protobuf, which slows every start.
    if not hasattr(type(value), "SerializeToString"):
        raise TypeError("expected a google.protobuf message")
    data: bytes = value.SerializeToString()
    return data


def _decode_proto(data: bytes) -> Any:
    raise AssertionError("proto is decoded by the message class")


def _encode_nil(value: Any) -> bytes:
    if value is not None:
        raise TypeError("expected None")
    return b""


def _decode_nil(data: bytes) -> None:
    if data:
        raise ValueError(f"expected no data, got {len(data)} bytes")


def _into_foreign(into: Any, plain: Any) -> Any:
    """Convert to a type that msgspec does not know: a pydantic model inside another type."""
    if hasattr(into, "model_validate"):
        return into.model_validate(plain)
    raise TypeError(f"{into!r} is not supported")


def _into_foreign_json(into: Any, plain: Any) -> Any:
    """Convert a plain value from JSON to a type that msgspec does not know."""
    if hasattr(into, "model_validate_json") and into.model_config.get("strict"):
        return into.model_validate_json(_encode_json(plain))
    return _into_foreign(into, plain)


def _decode_json_into(data: bytes, into: Any) -> Any:
    if hasattr(into, "model_validate_json"):
        return into.model_validate_json(data)
    try:
        decoder = _json_decoder(into)
    except TypeError:  # `into` is not hashable (Annotated with a dict); if it is not supported, the next line raises
        decoder = msgspec.json.Decoder(into, dec_hook=_into_foreign_json)
    return decoder.decode(data)


@lru_cache(maxsize=256)
def _json_decoder(into: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(into, dec_hook=_into_foreign_json)


def _convert(plain: Any, into: Any) -> Any:
    if type(plain) is into:
        return plain
    if hasattr(into, "model_validate"):
        return into.model_validate(plain)
    return msgspec.convert(plain, into, dec_hook=_into_foreign)


_registry: dict[str, tuple[Encode, Decode]] = {
    "bytes": (_encode_bytes, bytes),
    "string": (_encode_string, _decode_string),
    "json": (_encode_json, msgspec.json.decode),
    "msgpack": (_encode_msgpack, _decode_msgpack),
    "proto": (_encode_proto, _decode_proto),
    "nil": (_encode_nil, _decode_nil),
}
_BUILT_IN = frozenset(_registry)
