"""JSON Schema (2020-12) for a payload class: it says which payloads the class reads.

A class reads everything that it writes. So the schema holds for all payloads on the wire, too. The schema of what a
class writes would demand each field that has a default, and every new field would seem to break the stored events.
"""

from __future__ import annotations

import json
from typing import Any

from eda.errors import ConfigError
from eda.schemas.pydantic_schema import pydantic_schema
from eda.schemas.subschemas import rewritten
from eda.schemas.type_schema import adopted, schema_of_type

__all__ = ["json_schema"]

Schema = dict[str, Any]


def json_schema(cls: type[Any]) -> Schema:
    """Return the JSON Schema of a dataclass, Struct, attrs class or pydantic model, complete in itself.

    Titles and the names of definitions are names of classes, without their modules. Raises ConfigError for a class that
    JSON Schema can't describe.
    """
    try:
        schema = pydantic_schema(cls)
        schema = schema_of_type(cls, pydantic_schema) if schema is None else adopted(schema)
    except Exception as error:  # each library has errors of its own for what it can't describe
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"no JSON Schema can be made for the class {cls.__qualname__}: {reason}") from error
    return _with_root_inline(rewritten(schema, _without_odd_values))


def _without_odd_values(schema: Schema) -> Schema:
    """Return the schema without defaults and examples that JSON does not have, such as NaN."""
    return {key: value for key, value in schema.items() if key not in ("default", "examples") or _is_json(value)}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError):
        return False
    return True


def _with_root_inline(schema: Schema) -> Schema:
    """Return the schema with the definition of the class itself at its top, unless the class contains itself."""
    reference = schema.get("$ref")
    if not reference or str(schema).count(repr(reference)) > 1:
        return schema
    definitions = dict(schema["$defs"])
    root = definitions.pop(reference.removeprefix("#/$defs/"))
    return {**root, "$defs": definitions} if definitions else root
