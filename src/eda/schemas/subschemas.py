"""Walks through a JSON Schema: only where a schema stands, not into property names, constants and defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["redirected", "rewritten"]

Schema = dict[str, Any]

_ONE = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_MANY = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("$defs", "dependentSchemas", "patternProperties", "properties")


def rewritten(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """Return the schema after `change` was applied to it and to each schema in it, the inner ones first."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            made[key] = {name: rewritten(each, change) for name, each in value.items()}
        elif key in _MANY and isinstance(value, list):
            made[key] = [rewritten(each, change) for each in value]
        elif key in _ONE:
            made[key] = rewritten(value, change)
    return change(made)


def redirected(schema: Any, renamed: Callable[[str], str]) -> Any:
    """Return the schema with other targets of its references."""

    def change(part: Schema) -> Schema:
        return {**part, "$ref": renamed(part["$ref"])} if isinstance(part.get("$ref"), str) else part

    return rewritten(schema, change)
