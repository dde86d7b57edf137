"""Schemas of the declared payload classes: exported for people and other programs, and compared in CI.

The `eda schema` commands use it. It describes classes, and reads and compares descriptions; it never decodes an event.
No class path of Python is in an exported document. Names of classes are, as titles, for people only: a comparison
ignores them.

Files, each after the files that it imports:

    finding             what a comparison finds: gaps between a writer and a reader, and findings for users
    subschemas          walks through the schemas in a schema
    type_schema         JSON Schema for the types that msgspec decodes
    pydantic_schema     JSON Schema for a pydantic model
    json_schema         JSON Schema for a payload class of any kind but protobuf
    protobuf_schema     the description of a protobuf message, and its .proto text
    document            the exported document, from the declared classes
    asyncapi            the same as AsyncAPI 3.0, and back
    reading             reads exported files
    branches            JSON Schemas in a form that can be compared
    constraints         compares limits, lengths, patterns and formats
    coverage            compares two JSON Schemas
    protobuf_coverage   compares two protobuf messages
    compatibility       compares two exported documents
"""

from __future__ import annotations

__all__: list[str] = []
