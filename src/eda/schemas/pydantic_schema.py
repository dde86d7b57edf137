"""JSON Schema for a pydantic model, by pydantic's own means, with what decides whether bytes can be read.

pydantic describes a datetime that must have an offset like one that must not, and leaves out the limits of dates, the
digits of decimals and the types of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eda.schemas.type_schema import DATE_TIME, TIME, number_keys

__all__ = ["COMPUTED", "pydantic_schema"]

Schema = dict[str, Any]

COMPUTED = "x-eda-computed"  # marks a field that a model writes and does not read
_TIME_ZONES = {None: None, "aware": True, "naive": False}
_LIMITS = ("ge", "gt", "le", "lt")


def pydantic_schema(cls: type[Any]) -> Schema | None:
    """Return the schema of a pydantic model; None for another class."""
    if not hasattr(cls, "model_json_schema"):
        return None
    generator = _generator()
    read: Schema = cls.model_json_schema(mode="validation", by_alias=True, schema_generator=generator)
    try:
        written: Schema = cls.model_json_schema(mode="serialization", by_alias=True, schema_generator=generator)
    except Exception:  # a serializer without a declared type
        return read
    parts = [(read, written)]
    parts += [(part, written.get("$defs", {}).get(name, {})) for name, part in read.get("$defs", {}).items()]
    has_computed = [_take_written(part, other) for part, other in parts]
    if any(has_computed) and "$defs" in written:
        read["$defs"] = {**written["$defs"], **read.get("$defs", {})}
    return read


def _take_written(read: Schema, written: Schema) -> bool:
    """Give the properties of a model the names under which it writes them, and add those that it computes.

    A model may read several names. Both schemas have the fields in the same order, and computed fields stand after
    them. Returns whether there are computed fields.
    """
    mine, theirs = read.get("properties", {}), written.get("properties", {})
    if len(theirs) < len(mine):
        return False
    new_names = dict(zip(mine, theirs, strict=False))
    computed = {name: theirs[name] for name in list(theirs)[len(mine) :] if theirs[name].get("readOnly")}
    if mine or computed:
        read["properties"] = {new_names[name]: schema for name, schema in mine.items()}
        read["properties"] |= {name: {**schema, COMPUTED: True} for name, schema in computed.items()}
    if "required" in read:
        read["required"] = [new_names.get(name, name) for name in read["required"]]
    return bool(computed)


def _generator() -> type[Any]:
    # Imported here: only who declares a pydantic model needs pydantic, and then it is loaded already.
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def datetime_schema(self, schema: Any) -> Schema:
            return _moment(super().datetime_schema(schema), schema, DATE_TIME)

        def date_schema(self, schema: Any) -> Schema:
            return _moment(super().date_schema(schema), schema)

        def time_schema(self, schema: Any) -> Schema:
            return _moment(super().time_schema(schema), schema, TIME)

        def timedelta_schema(self, schema: Any) -> Schema:
            return _moment(super().timedelta_schema(schema), schema)

        def decimal_schema(self, schema: Any) -> Schema:
            digits = {name: schema[name] for name in ("max_digits", "decimal_places") if schema.get(name) is not None}
            made = super().decimal_schema(schema)
            for part in made.get("anyOf", [made]):
                if part.get("type") == "string":
                    part["format"] = "decimal"
                if digits:
                    part["x-eda-digits"] = digits
            return made

        def dict_schema(self, schema: Any) -> Schema:
            made = super().dict_schema(schema)
            if schema.get("keys_schema", {}).get("type") in ("int", "float", "bool", "decimal", "union"):
                made["propertyNames"] = _keys(self.generate_inner(schema["keys_schema"]))
            return made

    return Generator


def _keys(schema: Schema) -> Schema:
    """Return the schema of the keys of an object, which are texts, whatever they stand for."""
    if "anyOf" in schema:
        return {"anyOf": [_keys(each) for each in schema["anyOf"]]}
    if schema.get("type") in ("integer", "number"):
        return number_keys(schema)
    return {"enum": ["false", "true"]} if schema.get("type") == "boolean" else schema


def _moment(made: Schema, schema: Any, formats: Mapping[bool | None, str] | None = None) -> Schema:
    """Return the schema of a date, a time or a duration with its limits, and with its format for this time zone."""
    limits = {name: str(schema[name]) for name in (*_LIMITS, "now_op") if schema.get(name) is not None}
    if limits:
        made = {**made, "x-eda-limits": limits}
    if formats is not None and made.get("format") == formats[True]:
        made = {**made, "format": formats[_TIME_ZONES.get(schema.get("tz_constraint"))]}
    return made
