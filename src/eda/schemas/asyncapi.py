"""The exported document as AsyncAPI 3.0, and back.

AsyncAPI takes JSON Schema of draft 7, and a document has one place for all its schemas. AsyncAPI has no fields for
schema ids, aliases and upcasters. So they are in a field `x-eda` of each message, where `eda schema check` reads them.
"""

from __future__ import annotations

import re
from typing import Any

from eda.schemas.document import Entry
from eda.schemas.protobuf_schema import proto_text
from eda.schemas.subschemas import redirected, rewritten

__all__ = ["asyncapi_of", "types_of_asyncapi"]

Schema = dict[str, Any]

_CONTENT_TYPES = {
    "json": "application/json",
    "msgpack": "application/vnd.msgpack",
    "proto": "application/protobuf",
    "string": "text/plain; charset=utf-8",
}
_SCHEMAS = "#/components/schemas/"
_WIRE = "https://github.com/eda-fast/eda/blob/main/docs/wire.md"


def asyncapi_of(types: dict[str, Entry], *, title: str, version: str, stream: str | None = None) -> dict[str, Any]:
    """Return the AsyncAPI document of the types. Without `stream`, the channel has the stream as a parameter."""
    messages: dict[str, Any] = {}
    schemas: dict[str, Schema] = {}
    for type_, entry in types.items():
        key = _component_name(type_, messages)
        messages[key] = _message(type_, entry, key)
        if "payload" in entry:
            schemas |= _components(entry["payload"], key)
    channel = stream or "stream"
    reference = {"$ref": f"#/channels/{channel}"}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version, "description": "Made by `eda schema export`."},
        "defaultContentType": "application/json",
        "channels": {channel: _channel(stream, messages)},
        "operations": {
            f"publish-{channel}": {"action": "send", "channel": reference, "summary": "Publish an event."},
            f"subscribe-{channel}": {"action": "receive", "channel": reference, "summary": "Handle events."},
        },
        "components": {"messages": messages, **({"schemas": dict(sorted(schemas.items()))} if schemas else {})},
    }


def types_of_asyncapi(document: dict[str, Any]) -> dict[str, Entry]:
    """Return the types of a document that `asyncapi_of` made. Raises KeyError, TypeError … for another document."""
    components = document["components"]
    definitions = {name: _to_2020(schema) for name, schema in components.get("schemas", {}).items()}
    types = {}
    for message in components["messages"].values():
        entry = dict(message["x-eda"])
        type_ = entry.pop("type")
        if "protobuf" not in entry:
            target = message["payload"]["$ref"].replace(_SCHEMAS, "#/$defs/")
            entry["payload"] = {"$ref": target, "$defs": definitions}
        types[type_] = entry
    return types


def _channel(stream: str | None, messages: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        "type": {"description": f"The event's type, escaped as in {_WIRE}#subjects"},
        "aggregate": {"description": "The event's aggregate, escaped likewise; `_` if it has none."},
    }
    if stream is None:
        parameters = {"stream": {"description": "The name of the JetStream stream."}, **parameters}
    return {
        "address": f"{stream or '{stream}'}.{{type}}.{{aggregate}}",
        "description": f"A stream of NATS JetStream. Each message is an envelope around a payload: {_WIRE}",
        "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in messages},
        "parameters": parameters,
    }


def _message(type_: str, entry: Entry, key: str) -> dict[str, Any]:
    extra = {name: value for name, value in entry.items() if name != "payload"}
    message: dict[str, Any] = {"name": type_, "title": type_}
    description = entry.get("payload", {}).get("description")
    if description:
        message["description"] = description
    message["contentType"] = _CONTENT_TYPES.get(entry["encoding"], "application/octet-stream")
    message["headers"] = {
        "type": "object",
        "properties": {
            "Nats-Msg-Id": {"type": "string", "minLength": 1, "maxLength": 128, "description": "The event's id."}
        },
    }
    if "protobuf" in entry:
        text = proto_text(entry["protobuf"])
        version = 2 if text.startswith('syntax = "proto2"') else 3
        message["payload"] = {"schemaFormat": f"application/vnd.google.protobuf;version={version}", "schema": text}
    else:
        message["payload"] = {"$ref": f"{_SCHEMAS}{key}"}
    message["x-eda"] = {"type": type_, **extra}
    return message


def _component_name(type_: str, taken: dict[str, Any]) -> str:
    """Return the type as AsyncAPI allows it in names of components."""
    name = wanted = re.sub(r"[^A-Za-z0-9._-]", "_", type_) or "_"
    number = 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def _components(payload: Schema, key: str) -> dict[str, Schema]:
    """Return the payload's schema and its definitions under names of the whole document."""
    root = {name: value for name, value in payload.items() if name not in ("$defs", "$schema")}
    parts = {key: root} | {f"{key}.{name}": part for name, part in payload.get("$defs", {}).items()}
    return {
        name: _to_draft_7(redirected(part, lambda target: target.replace("#/$defs/", f"{_SCHEMAS}{key}.")))
        for name, part in parts.items()
    }


def _to_draft_7(schema: Schema) -> Schema:
    def change(part: Schema) -> Schema:
        # In AsyncAPI `discriminator` is the name of a property; it adds nothing to the constants in the branches.
        part = {key: value for key, value in part.items() if key not in ("$schema", "discriminator")}
        if "prefixItems" in part:
            if "items" in part:
                part["additionalItems"] = part.pop("items")
            part["items"] = part.pop("prefixItems")
        if "$ref" in part and len(part) > 1:  # draft 7 ignores what stands beside a reference
            part["allOf"] = [{"$ref": part.pop("$ref")}]
        return part

    made: Schema = rewritten(schema, change)
    return made


def _to_2020(schema: Any) -> Any:
    def change(part: Schema) -> Schema:
        part = dict(part)
        if isinstance(part.get("items"), list):
            part["prefixItems"] = part.pop("items")
            if "additionalItems" in part:
                part["items"] = part.pop("additionalItems")
        return part

    return redirected(rewritten(schema, change), lambda target: target.replace(_SCHEMAS, "#/$defs/"))
