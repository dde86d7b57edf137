"""The exported document: each type with its schema id, aliases, encoding, upcasters and the schema of its payload."""

from __future__ import annotations

import re
from typing import Any

from eda.schemas.json_schema import json_schema
from eda.schemas.protobuf_schema import protobuf_schema
from eda.typed.registry import PayloadClass, payload_classes
from eda.typed.upcasters import check_upcasters, upcasters_of

__all__ = ["FORMAT", "VERSION", "Entry", "declared_types", "document_of"]

Entry = dict[str, Any]

FORMAT = "eda-schemas"
VERSION = 1


def declared_types() -> dict[str, Entry]:
    """Return an entry for each type that this process has declared, sorted by type.

    Raises ConfigError if the upcasters of a type have a gap, and for a class that can't be described.
    """
    check_upcasters()
    classes = sorted(payload_classes(), key=lambda declared: declared.type)
    return {declared.type: _entry(declared) for declared in classes}


def document_of(types: dict[str, Entry]) -> dict[str, Any]:
    """Return the document that `--format json-schema` writes."""
    return {"format": FORMAT, "version": VERSION, "types": types}


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
        entry["payload"] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **json_schema(declared.cls)}
    return entry


def _schema_order(step: list[str]) -> list[list[tuple[int, str]]]:
    """Sort "10" after "9"."""
    return [[(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)] for name in step]
