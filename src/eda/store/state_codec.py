"""How a state is written into a snapshot and read back, and whether a state that is read back is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import msgspec
import msgspec.inspect

from eda._data import Data
from eda.encodings import encode_value
from eda.errors import CodecError, ConfigError
from eda.typed.kinds import kind_of

__all__ = ["StateCodec", "UnfitState"]


class UnfitState(Exception):
    """A state that can't be kept in a snapshot. Its text says why."""


class StateCodec:
    """Writes states into snapshots and reads them back.

    `state_type` is the type that a snapshot is decoded into. With None, the type of `initial` is used if it is a class
    whose instances can be decoded (such as a dataclass); otherwise a state is read back as plain data. Raises
    ConfigError if no value can be decoded into `state_type`.
    """

    def __init__(self, state_type: Any, initial: Any) -> None:
        if state_type is None and kind_of(type(initial)):
            state_type = type(initial)
        self._into = state_type
        is_message = isinstance(state_type, type) and kind_of(state_type) == "protobuf"
        self._encoding = "proto" if is_message else "json"
        if state_type is not None and not is_message:
            _check_decodable(state_type)

    def encode(self, state: Any) -> Data:
        """Return the state as Data. Raises UnfitState if it can't be encoded, or if it would be read back changed."""
        try:
            data = Data.from_encoded(self._encoding, encode_value(self._encoding, state))
            copy = self.decode(data)
            is_same = _is_same(state, copy)
        except CodecError as error:
            raise UnfitState(str(error)) from error
        except RecursionError as error:
            raise UnfitState("it is nested too deeply") from error
        if not is_same:
            hint = "" if self._into is not None else ": give Decider(state=...) the type of the states"
            raise UnfitState(f"a {type(state).__qualname__} is read back from its {self._encoding} changed{hint}")
        return data

    def decode(self, data: Data) -> Any:
        """Return the state in the data. Raises CodecError."""
        return data.decode(self._into) if self._into is not None else data.decode()


def _check_decodable(state_type: Any) -> None:
    try:
        msgspec.json.Decoder(state_type)
        is_foreign = isinstance(msgspec.inspect.type_info(state_type), msgspec.inspect.CustomType)
        if is_foreign and not hasattr(state_type, "model_validate_json"):
            raise TypeError(f"{state_type!r} is not supported")
    except TypeError as error:
        raise ConfigError(
            f"state={state_type!r} can't be decoded from a snapshot: {error}", argument="state"
        ) from error
    except NameError:
        pass  # an annotation names something that is not defined yet; the first snapshot shows whether it works


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and have the same types, down to their fields and items.

    Equal is not enough: an enum of texts equals its text, True equals 1, and a function that evolves a state may
    depend on the difference.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        # Not by lookup: 1 and True are the same key.
        return len(one) == len(other) and all(_is_same(*pair) for pair in zip(_flat(one), _flat(other), strict=True))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_is_same(*pair) for pair in zip(one, other, strict=True))
    names = _field_names(type(one))
    if names:
        return all(_is_same(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


def _flat(pairs: dict[Any, Any]) -> Iterable[Any]:
    for key, value in pairs.items():
        yield key
        yield value


def _field_names(cls: type[Any]) -> list[str]:
    """Return the names of the fields of a dataclass, Struct, attrs class or pydantic model; [] for any other class."""
    if hasattr(cls, "model_fields") and hasattr(cls, "model_validate_json"):
        return list(cls.model_fields)
    if hasattr(cls, "__struct_fields__"):
        return list(cls.__struct_fields__)
    if hasattr(cls, "__attrs_attrs__"):
        return [field.name for field in cls.__attrs_attrs__]
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
