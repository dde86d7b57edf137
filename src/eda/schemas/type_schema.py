"""JSON Schema for the types that msgspec decodes: dataclasses, Structs, attrs classes, TypedDicts and what is in them.

`msgspec.json.schema_components` makes a schema as well, but it leaves out facts that decide whether bytes can be read.
It describes a datetime like any text, and it says nothing about the keys of a dict unless they are constrained texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from eda.schemas.subschemas import redirected

__all__ = ["DATE_TIME", "NUMBER_KEYS", "TIME", "adopted", "number_keys", "schema_of_type"]

Schema = dict[str, Any]

_INTEGER_KEYS = "^-?[0-9]+$"
_NUMBER_KEYS = "^-?[0-9][0-9.eE+-]*$"
# MessagePack has numbers as keys, and JSON has texts that look like numbers.
NUMBER_KEYS = (_INTEGER_KEYS, _NUMBER_KEYS)

# msgspec reads a datetime with or without an offset unless its type says which. RFC 3339, and so the format "date-time"
# of JSON Schema, demands an offset. So the two other cases have formats of our own, which a validator ignores.
DATE_TIME: dict[bool | None, str] = {None: "iso-date-time", True: "date-time", False: "local-date-time"}
TIME: dict[bool | None, str] = {None: "iso-time", True: "time", False: "local-time"}

_PLAIN: dict[type[inspect.Type], Schema] = {
    inspect.AnyType: {},
    inspect.RawType: {},
    inspect.NoneType: {"type": "null"},
    inspect.BoolType: {"type": "boolean"},
    inspect.DateType: {"type": "string", "format": "date"},
    inspect.TimeDeltaType: {"type": "string", "format": "duration"},
    inspect.UUIDType: {"type": "string", "format": "uuid"},
    inspect.DecimalType: {"type": "string", "format": "decimal"},
}
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_LIMITS["multiple_of"] = "multipleOf"


def schema_of_type(type: Any, foreign: Callable[[type[Any]], Schema | None]) -> Schema:
    """Return the JSON Schema of a type, with the classes that it uses under `$defs`.

    `foreign` returns the schema of a class that msgspec does not know, or None if it does not know the class either.
    Raises TypeError for a class that can't be described.
    """
    maker = _Maker(foreign)
    schema = maker.of(inspect.type_info(type))
    return {**schema, "$defs": maker.definitions()} if maker.names else schema


class _Maker:
    """Makes the schema of one type. A class gets a definition of its own, so that it may contain itself."""

    def __init__(self, foreign: Callable[[type[Any]], Schema | None]) -> None:
        self.foreign = foreign
        self.names: dict[Any, str] = {}
        self.made: dict[str, Schema] = {}

    def definitions(self) -> dict[str, Schema]:
        return {name: self.made[name] for name in sorted(self.made)}

    def of(self, info: inspect.Type) -> Schema:
        plain = _PLAIN.get(type(info))
        if plain is not None:
            return dict(plain)
        match info:
            case inspect.Metadata():
                return {**self.of(info.type), **(info.extra_json_schema or {})}
            case inspect.IntType() | inspect.FloatType():
                return {"type": "integer" if isinstance(info, inspect.IntType) else "number", **_limits(info)}
            case inspect.StrType():
                schema = {"type": "string", **_lengths(info, "Length")}
                return schema if info.pattern is None else {**schema, "pattern": info.pattern}
            case inspect.BytesType() | inspect.ByteArrayType() | inspect.MemoryViewType():
                # The lengths in base64 are for validators. They don't tell 4 bytes from 5, so bytes are compared.
                lengths = {**_lengths(info, "Length", _base64_length), **_lengths(info, "Bytes", prefix="x-eda-")}
                return {"type": "string", **lengths, "contentEncoding": "base64"}
            case inspect.DateTimeType():
                return {"type": "string", "format": DATE_TIME[info.tz]}
            case inspect.TimeType():
                return {"type": "string", "format": TIME[info.tz]}
            case inspect.LiteralType():
                return {"enum": sorted(info.values, key=lambda value: (type(value).__name__, str(value)))}
            case inspect.UnionType():
                return self._union(info)
            case inspect.TupleType():
                return self._tuple([self.of(each) for each in info.item_types])
            case inspect.CollectionType():
                unique = isinstance(info, inspect.SetType | inspect.FrozenSetType)
                schema = {"type": "array", "items": self.of(info.item_type), **_lengths(info, "Items")}
                return {**schema, "uniqueItems": True} if unique else schema
            case inspect.EnumType():
                values = sorted((member.value for member in info.cls), key=_enum_order)
                return self._named(info.cls, info.cls, lambda: {"enum": values})
            case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() | inspect.NamedTupleType():
                # A generic class has a description for each of its uses.
                return self._named(id(info), info.cls, lambda: self._object(info))
            case inspect.CustomType():
                return self._custom(info)
        if hasattr(info, "key_type"):  # DictType, and FrozenDictType of newer versions
            return self._dict(info)
        raise TypeError(f"{type(info).__name__.removesuffix('Type')} can't be described by JSON Schema")

    def _named(self, key: Any, cls: Any, make: Callable[[], Schema]) -> Schema:
        """Return a reference to the definition of a class, which is made when it is first needed."""
        if key not in self.names:
            title = re.sub(r"\W", "_", getattr(cls, "__name__", str(cls)))
            self.names[key] = name = self._free_name(title)
            self.made[name] = {"title": title, **_description(cls), **make()}
        return {"$ref": f"#/$defs/{self.names[key]}"}

    def _free_name(self, wanted: str) -> str:
        taken = set(self.names.values())
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted}_{number}", number + 1
        return name

    def _union(self, info: inspect.UnionType) -> Schema:
        branches = [self.of(each) for each in info.types]
        # The order of a union means nothing, and Python may change it.
        return {"anyOf": sorted(branches, key=lambda schema: ("null" in schema.values(), str(schema)))}

    def _tuple(self, items: list[Schema]) -> Schema:
        if not items:
            return {"type": "array", "maxItems": 0}
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items), "maxItems": len(items)}

    def _dict(self, info: Any) -> Schema:
        schema: Schema = {"type": "object", "additionalProperties": self.of(info.value_type)}
        keys = self._keys(self.of(info.key_type))
        if keys:
            schema["propertyNames"] = keys
        return {**schema, **_lengths(info, "Properties")}

    def _keys(self, schema: Schema) -> Schema:
        """Return the schema of the keys of an object, which are texts, whatever they stand for."""
        if "$ref" in schema:
            schema = self.made[schema["$ref"].removeprefix("#/$defs/")]
        if "enum" in schema:
            return {"enum": [str(value) for value in schema["enum"]]}
        kind = schema.get("type")
        if kind in ("integer", "number"):
            return number_keys(schema)
        if "anyOf" in schema:
            return {"anyOf": [self._keys(each) or {"type": "string"} for each in schema["anyOf"]]}
        return {name: value for name, value in schema.items() if name != "type"}

    def _object(self, info: Any) -> Schema:
        if isinstance(info, inspect.NamedTupleType) or getattr(info, "array_like", False):
            return self._array_of_fields(info)
        properties: Schema = {}
        required: list[str] = []
        tag = getattr(info, "tag_field", None)
        if tag:
            properties[tag] = {"enum": [info.tag]}
            required.append(tag)
        for field in info.fields:
            properties[field.encode_name] = self._field(field)
            if field.required:
                required.append(field.encode_name)
        schema: Schema = {"type": "object", "properties": properties, "required": required}
        if getattr(info, "forbid_unknown_fields", False):
            schema["additionalProperties"] = False
        return schema

    def _array_of_fields(self, info: Any) -> Schema:
        # Only the title of an item tells two fields of one type apart.
        items = [{"title": field.name, **self._field(field)} for field in info.fields]
        n_required = sum(field.required for field in info.fields)
        if getattr(info, "tag_field", None):
            items.insert(0, {"enum": [info.tag]})
            n_required += 1
        schema: Schema = {"type": "array", "prefixItems": items, "minItems": n_required}
        if getattr(info, "forbid_unknown_fields", False) or isinstance(info, inspect.NamedTupleType):
            schema.update(items=False, maxItems=len(items))
        return schema

    def _field(self, field: inspect.Field) -> Schema:
        schema = self.of(field.type)
        default = field.default
        if default is NODEFAULT and field.default_factory in (list, dict, set, tuple):
            default = field.default_factory()
        if default is NODEFAULT or default is msgspec.UNSET:
            return schema
        try:
            return {**schema, "default": msgspec.to_builtins(default, str_keys=True, order="deterministic")}
        except (TypeError, ValueError):
            return schema

    def _custom(self, info: inspect.CustomType) -> Schema:
        schema = self.foreign(info.cls)
        if schema is None:
            raise TypeError(f"{info.cls.__qualname__} can't be described by JSON Schema")
        return self._named(info.cls, info.cls, lambda: self._adopt(schema))

    def _adopt(self, schema: Schema) -> Schema:
        """Take over the definitions of another library's schema under free names, and return the schema itself."""
        renamed: dict[str, str] = {}
        definitions: dict[str, Schema] = schema.get("$defs", {})
        for old in definitions:
            new = self.names["adopted", len(self.names)] = self._free_name(short_name(old))
            renamed[f"#/$defs/{old}"] = f"#/$defs/{new}"
        for old, definition in definitions.items():
            new = renamed[f"#/$defs/{old}"].removeprefix("#/$defs/")
            self.made[new] = redirected(definition, lambda target: renamed.get(target, target))
        root = {key: value for key, value in schema.items() if key != "$defs"}
        found: Schema = redirected(root, lambda target: renamed.get(target, target))
        return found


def adopted(schema: Schema) -> Schema:
    """Return another library's schema with the short names of classes for its definitions."""
    maker = _Maker(lambda _: None)
    root = maker._adopt(schema)
    return {**root, "$defs": maker.definitions()} if maker.made else root


def number_keys(schema: Schema) -> Schema:
    """Return the schema of the keys of an object that stand for numbers of this schema."""
    # A limit of a number can't be said of a text. A change of the unknown keyword is reported all the same.
    limits = {name: schema[name] for name in _LIMITS.values() if name in schema}
    pattern = _INTEGER_KEYS if schema["type"] == "integer" else _NUMBER_KEYS
    return {"pattern": pattern, **({"x-eda-limits": limits} if limits else {})}


def short_name(name: str) -> str:
    """Return the name of a class without its module: pydantic writes both if two classes have one name."""
    return name.rpartition("__")[2] or name


def _limits(info: Any) -> Schema:
    return {name: value for field, name in _LIMITS.items() if (value := getattr(info, field)) is not None}


def _lengths(info: Any, unit: str, length: Callable[[int], int] = int, prefix: str = "") -> Schema:
    bounds = {f"{prefix}min{unit}": info.min_length, f"{prefix}max{unit}": info.max_length}
    return {name: length(value) for name, value in bounds.items() if value is not None}


def _base64_length(n_bytes: int) -> int:
    return 4 * ((n_bytes + 2) // 3)


def _enum_order(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


def _description(cls: Any) -> Schema:
    """Return the docstring of a class, unless a library or Python made it."""
    text = getattr(cls, "__doc__", None) if not isinstance(cls, str) else None
    made_by_python = text and text.startswith((f"{getattr(cls, '__name__', '')}(", "An enumeration."))
    if not text or made_by_python:
        return {}
    inherited = any(text == base.__doc__ for base in getattr(cls, "__mro__", ())[1:])
    return {} if inherited else {"description": " ".join(text.split())}
