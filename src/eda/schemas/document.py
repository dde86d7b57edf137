"""The exported document: each type with its schema id, aliases, encoding, upcasters and the schema of its payload.

It is a JSON Schema with one definition for each type. JSON Schema has no fields for schema ids, aliases and upcasters.
So they are in a field `x-eda` of each definition, where `eda schema check` reads them.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from eda.schemas.json_schema import json_schema
from eda.schemas.protobuf_schema import protobuf_schema
from eda.typed.registry import PayloadClass, payload_classes
from eda.typed.upcasters import check_upcasters, upcasters_of

__all__ = ["FORMAT", "VERSION", "Entry", "declared_types", "document_of", "types_of_document"]

Entry = dict[str, Any]

FORMAT = "eda-schemas"
VERSION = 1

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def declared_types() -> dict[str, Entry]:
    """Return an entry for each type that this process has declared, sorted by type.

    Raises ConfigError if the upcasters of a type have a gap, and for a class that can't be described.
    """
    check_upcasters()
    classes = sorted(payload_classes(), key=lambda declared: declared.type)
    return {declared.type: _entry(declared) for declared in classes}


def document_of(types: dict[str, Entry]) -> dict[str, Any]:
    """Return the document that `--format json-schema` writes."""
    return {
        "$schema": _DIALECT,
        "x-eda": {"format": FORMAT, "version": VERSION},
        "$defs": {type_: _definition(type_, entry) for type_, entry in types.items()},
    }


def types_of_document(document: dict[str, Any]) -> dict[str, Entry]:
    """Return the types of a document that `document_of` made. Raises KeyError, TypeError … for another document."""
    types = {}
    for type_, definition in document["$defs"].items():
        entry = dict(definition["x-eda"])
        if "protobuf" not in entry:
            entry["payload"] = {name: value for name, value in definition.items() if name not in ("$id", "x-eda")}
        types[type_] = entry
    return types


def _definition(type_: str, entry: Entry) -> dict[str, Any]:
    own = {name: value for name, value in entry.items() if name != "payload"}
    # With an `$id`, the references of a payload lead to the definitions of this payload, and not to those of the file.
    return {"$id": quote(type_, safe=""), **entry.get("payload", {}), "x-eda": own}


def _entry(declared: PayloadClass) -> Entry:
    steps = upcasters_of(declared.type)
    entry: Entry = {
        "schema": declared.schema,
        "aliases": sorted(declared.aliases),
        "encoding": declared.encoding,
        "upcasters": sorted(([step.old, step.new] for step in steps.values()), key=_schema_order),
    }
    if declared.kind == "protobuf":
        entry["protobuf"] = protobuf_schema(declared.cls)
    else:
        entry["payload"] = json_schema(declared.cls)
    return entry


def _schema_order(step: list[str]) -> list[list[tuple[int, str]]]:
    """Sort "10" after "9"."""
    return [[(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)] for name in step]
