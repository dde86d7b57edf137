"""Whether a payload class gets back from its bytes what was put into them.

msgspec and pydantic accept classes whose payloads they can write but not read. A payload class is checked when it is
declared, so that the error appears at the start of the program that publishes, and not in another program that reads.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect as structure

from eda.errors import ConfigError
from eda.typed.kinds import shown_class

__all__ = ["check_round_trip"]

# What msgspec can write as the key of a JSON object and read back.
_KEYS = (
    structure.AnyType,
    structure.StrType,
    structure.IntType,
    structure.FloatType,
    structure.BytesType,
    structure.DateTimeType,
    structure.DateType,
    structure.TimeType,
    structure.TimeDeltaType,
    structure.UUIDType,
    structure.DecimalType,
    structure.EnumType,
    structure.LiteralType,
)

_HEAP_TYPE = 1 << 9  # the flag of classes that are made by a class statement

# Keys that are read back as lists or dicts, which can't be keys in Python.
_NO_KEYS = (
    structure.CollectionType,
    structure.TupleType,
    structure.DictType,
    structure.TypedDictType,
    structure.NamedTupleType,
    structure.DataclassType,
    structure.StructType,
    structure.CustomType,
)


def check_round_trip(cls: type[Any], kind: str, encoding: str) -> None:
    """Check a class of this kind. Raises ConfigError that names class and field.

    Raises NameError if an annotation names something that is not defined yet: then the class can't be checked.
    """
    if kind == "protobuf":
        return
    parameters = getattr(cls, "__parameters__", ()) or getattr(cls, "__pydantic_generic_metadata__", {}).get(
        "parameters"
    )
    if parameters:
        names = ", ".join(each.__name__ for each in parameters)
        raise ConfigError(
            f"{shown_class(cls)} is generic, and {names} could be any type when its payload is decoded. Declare a "
            "subclass that names the type, such as class OrderBox(Box[Order])"
        )
    if kind == "pydantic":
        _Models(encoding).check(cls)
    else:
        _check_fields_alone(cls, kind)
        _Structure(encoding).check(structure.type_info(cls), "")


def _refused(cls: type[Any], field: str, why: str) -> ConfigError:
    return ConfigError(f"{shown_class(cls)} can't be a payload class: field {field!r} {why}")


def _check_fields_alone(cls: type[Any], kind: str) -> None:
    """Check each field by itself, because msgspec's errors about a whole class do not name the field."""
    if kind == "dataclass":
        for name, field in cls.__dataclass_fields__.items():
            if str(getattr(field, "_field_type", "")) == "_FIELD_INITVAR":
                raise _refused(cls, name, "is an InitVar, which is not kept in the payload")
    hints = typing.get_type_hints(cls, include_extras=True)
    if kind == "attrs":
        for field in cls.__attrs_attrs__:
            if field.name not in hints:
                raise _refused(cls, field.name, "has no type annotation")
    try:
        msgspec.json.Decoder(cls)
    except TypeError as error:
        for name, hint in hints.items():
            try:
                msgspec.json.Decoder(hint)
            except TypeError as reason:
                raise _refused(cls, name, f"can't be decoded: {reason}") from reason
        raise ConfigError(f"{shown_class(cls)} can't be a payload class: {error}") from error


class _Structure:
    """A walk through the types of a class and of the classes in it, as msgspec sees them."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._seen: set[int] = set()
        self._owner: type[Any] = object

    def check(self, node: Any, field: str) -> None:
        """Raise ConfigError if a type can't be written or read. `field` is the field that has the type."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if isinstance(node, structure.CustomType):
            self._check_custom(node.cls, field)
        elif isinstance(node, structure.ExtType) or (isinstance(node, structure.RawType) and self._encoding != "json"):
            raise _refused(self._owner, field, f"has the type {_name(node).title()}, which can't be encoded")
        elif isinstance(node, structure.DataclassType | structure.StructType):
            self._check_class(node)
        elif isinstance(node, structure.DictType):
            if self._encoding == "json" and not isinstance(node.key_type, _KEYS):
                raise _refused(self._owner, field, f"has keys that JSON can't have: {_name(node.key_type)}")
            for key in getattr(node.key_type, "types", (node.key_type,)):
                if isinstance(key, _NO_KEYS):
                    raise _refused(self._owner, field, f"has keys that can't be read back: {_name(key)}")
            self.check(node.key_type, field)
            self.check(node.value_type, field)
        else:
            for name in node.__struct_fields__:
                value = getattr(node, name)
                for each in value if isinstance(value, tuple) else (value,):
                    if isinstance(each, structure.Type | structure.Field):
                        self.check(each, field)

    def _check_class(self, node: structure.DataclassType | structure.StructType) -> None:
        outer, self._owner = self._owner, node.cls
        if hasattr(node.cls, "__pydantic_validator__"):
            raise ConfigError(
                f"{shown_class(node.cls)} is a dataclass of pydantic, whose validators would not run in a payload "
                "class; make it a pydantic.BaseModel"
            )
        if isinstance(node, structure.DataclassType):
            _check_bases(node.cls)
        is_attrs = hasattr(node.cls, "__attrs_attrs__")
        for field in node.fields:
            if is_attrs and field.name.startswith("_"):
                raise _refused(node.cls, field.name, "would not be encoded, because its name begins with _")
            self.check(field.type, field.name)
        self._owner = outer

    def _check_custom(self, cls: Any, field: str) -> None:
        if hasattr(cls, "model_validate") and hasattr(cls, "model_fields"):
            _Models(self._encoding).check(cls)
        else:
            name = getattr(cls, "__qualname__", None) or repr(cls)
            raise _refused(self._owner, field, f"has the type {name}, which can't be decoded")


def _check_bases(cls: type[Any]) -> None:
    """Raise ConfigError for a dataclass or attrs class that is also a dict, an exception or another built-in type.

    msgspec writes a dict without its fields. And it makes the instance without the base's `__new__`, so that the use of
    an exception crashes the process.
    """
    for base in cls.__mro__:
        if base is not object and not base.__flags__ & _HEAP_TYPE:
            raise ConfigError(
                f"{shown_class(cls)} can't be a payload class: it is a subclass of {base.__name__}, which can't be "
                "decoded together with fields. Make the base's value a field"
            )


def _name(node: Any) -> str:
    return type(node).__name__.removesuffix("Type").lower()


class _Models:
    """A walk through pydantic models."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._seen: set[type[Any]] = set()

    def check(self, cls: type[Any]) -> None:
        """Raise ConfigError if a field can't be written and read back; NameError if the model is not complete."""
        if cls in self._seen:
            return
        self._seen.add(cls)
        if not cls.__pydantic_complete__ and not cls.model_rebuild(raise_errors=False):
            missing = [name for name, field in cls.model_fields.items() if "ForwardRef" in repr(field.annotation)]
            raise NameError(f"the annotation of field {missing[0]!r} is not defined" if missing else "", name="")
        config = cls.model_config
        if config.get("strict") and self._encoding == "msgpack":
            raise ConfigError(
                f"{shown_class(cls)} can't be a payload class: it is strict, and MessagePack has no dates, sets or "
                "decimals, so the model would refuse the texts and lists that stand for them. Use encoding='json'"
            )
        for name, field in cls.model_fields.items():
            if field.exclude:
                raise _refused(cls, name, "is not encoded, because it has exclude=True")
            written = field.serialization_alias or name
            read = _names_read(name, field.validation_alias, config)
            if written not in read:
                reason = f"is written as {written!r} and read as {' or '.join(map(repr, read))}"
                raise _refused(cls, name, f"{reason}: give it one name for both with alias=")
            schema = _schema_type(cls, name)
            if schema == "is-instance":
                raise _refused(cls, name, f"has the type {field.annotation!r}, which can't be decoded")
            if schema == "json":
                raise _refused(cls, name, "is pydantic's Json, which is read from a text and not written as one")
            self._check_annotation(cls, name, field.annotation)
        for name in cls.model_computed_fields:
            if config.get("extra") in ("forbid", "allow"):
                raise _refused(cls, name, f"is computed and encoded, but with extra={config['extra']!r} not read back")

    def _check_annotation(self, cls: type[Any], name: str, annotation: Any) -> None:
        if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
            self.check(annotation)
        if hasattr(annotation, "get_secret_value") and not _has_serializer(cls, name):
            raise _refused(cls, name, "is a secret, which is written as asterisks")
        arguments = typing.get_args(annotation)
        if arguments and isinstance(origin := typing.get_origin(annotation), type) and issubclass(origin, Mapping):
            for key in _members(arguments[0]):
                if _is_compound(typing.get_origin(key) or key) and not _has_serializer(cls, name):
                    raise _refused(cls, name, f"has keys that can't be read back: {key!r}")
        for argument in arguments:
            self._check_annotation(cls, name, argument)


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the types of which an annotation consists, without those that have serializers of the user."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        if not any(hasattr(each, "__get_pydantic_core_schema__") for each in annotation.__metadata__):
            yield from _members(annotation.__origin__)
    elif origin in (typing.Union, types.UnionType):
        for each in typing.get_args(annotation):
            yield from _members(each)
    else:
        yield annotation


def _is_compound(cls: Any) -> bool:
    """Return whether the values of a class are written as lists or objects, or as a text made of several parts."""
    if not isinstance(cls, type):
        return False
    if hasattr(cls, "__get_pydantic_core_schema__"):  # models have it, and classes that say how they are written
        return hasattr(cls, "model_fields")
    return issubclass(cls, tuple | frozenset) or any(
        hasattr(cls, mark) for mark in ("__dataclass_fields__", "__attrs_attrs__")
    )


def _names_read(name: str, alias: Any, config: Any) -> list[str]:
    """Return the keys under which a pydantic model reads a field."""
    keys = []
    if config.get("validate_by_alias", True) is not False:
        for each in getattr(alias, "choices", [alias]):
            path = getattr(each, "path", [each])
            if each is not None and len(path) == 1:
                keys.append(path[0])
    if alias is None or config.get("populate_by_name") or config.get("validate_by_name"):
        keys.append(name)
    return keys


def _has_serializer(cls: type[Any], name: str) -> bool:
    """Return whether the model has a function of the user that writes the field."""
    decorators = getattr(cls, "__pydantic_decorators__", None)
    if getattr(decorators, "model_serializers", None):
        return True
    found = getattr(decorators, "field_serializers", {}).values()
    return any(name in each.info.fields or "*" in each.info.fields for each in found)


def _schema_type(cls: type[Any], name: str) -> str:
    """Return what pydantic's own schema says of a field, such as "is-instance" for arbitrary types; "" if not known."""
    schema = getattr(cls, "__pydantic_core_schema__", None)
    while isinstance(schema, dict) and schema.get("type") not in ("is-instance", "model-fields"):
        schema = schema.get("schema")
    if isinstance(schema, dict) and schema["type"] == "model-fields":
        schema = schema["fields"].get(name)
        while isinstance(schema, dict) and schema.get("type") in ("model-field", "default", "nullable"):
            schema = schema.get("schema")
    return str(schema.get("type", "")) if isinstance(schema, dict) else ""
