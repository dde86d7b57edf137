"""eda.schemas.asyncapi and reading: exported documents, there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from eda.errors import ConfigError
from eda.schemas.asyncapi import asyncapi_of
from eda.schemas.compatibility import compare
from eda.schemas.document import document_of
from eda.schemas.protobuf_schema import protobuf_schema
from eda.schemas.reading import read_types
from support.schemas.protobuf_files import message

PAYLOAD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "OrderPaid",
    "description": "An order was paid.",
    "type": "object",
    "properties": {
        "items": {"type": "array", "prefixItems": [{"$ref": "#/$defs/Line"}, {"type": "string"}], "items": False},
        "rest": {"prefixItems": [{"type": "integer"}]},
        "line": {"$ref": "#/$defs/Line", "default": None},
        "payment": {"oneOf": [{"$ref": "#/$defs/Line"}], "discriminator": {"propertyName": "sku", "mapping": {}}},
    },
    "required": ["items"],
    "$defs": {"Line": {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]}},
}
PLAIN = {"schema": "", "aliases": [], "encoding": "json", "upcasters": []}
PAID = {"schema": "2", "aliases": ["payment made"], "encoding": "json", "upcasters": [["1", "2"]], "payload": PAYLOAD}
PROTO = protobuf_schema(message('message_type { name: "M" }'))
TYPES: dict[str, Any] = {
    "a b": {**PLAIN, "payload": {"type": "string"}},
    "a_b": {**PLAIN, "payload": {"type": "integer"}},
    "order-paid": PAID,
    "proto": {**PLAIN, "encoding": "proto", "protobuf": PROTO},
}


def test_document_when_made_has_channel_operations_and_messages() -> None:
    document = asyncapi_of(TYPES, title="Shop", version="1.2.3", stream="orders")
    assert document["asyncapi"] == "3.0.0"
    assert (document["info"]["title"], document["info"]["version"]) == ("Shop", "1.2.3")
    channel = document["channels"]["orders"]
    assert channel["address"] == "orders.{type}.{aggregate}"
    assert channel["parameters"].keys() == {"type", "aggregate"}
    assert {operation["action"] for operation in document["operations"].values()} == {"send", "receive"}
    messages = document["components"]["messages"]
    assert messages.keys() == channel["messages"].keys() == {"a_b", "a_b_2", "order-paid", "proto"}
    paid = messages["order-paid"]
    assert (paid["name"], paid["contentType"]) == ("order-paid", "application/json")
    assert paid["description"] == "An order was paid."
    assert paid["x-eda"] == {key: value for key, value in {"type": "order-paid", **PAID}.items() if key != "payload"}
    assert "Nats-Msg-Id" in paid["headers"]["properties"]
    assert messages["proto"]["payload"]["schemaFormat"] == "application/vnd.google.protobuf;version=3"
    assert "message shop_M {" in messages["proto"]["payload"]["schema"]


def test_address_when_no_stream_is_given_has_it_as_a_parameter() -> None:
    channel = asyncapi_of(TYPES, title="t", version="1")["channels"]["stream"]
    assert channel["address"] == "{stream}.{type}.{aggregate}"
    assert channel["parameters"].keys() == {"stream", "type", "aggregate"}


def test_payloads_when_validated_by_draft_7_are_those_of_draft_2020_12() -> None:
    document = asyncapi_of(TYPES, title="t", version="1")
    new = Draft202012Validator(PAYLOAD)
    old = Draft7Validator({**document, "$ref": "#/components/schemas/order-paid"})
    Draft7Validator.check_schema(document["components"]["schemas"]["order-paid"])
    for payload in (
        {"items": [{"sku": "a"}, "b"]},
        {"items": [{"sku": "a"}, 7]},
        {"items": [{"sku": "a"}, "b", "c"]},
        {"items": [], "rest": [1, "a"]},
        {"items": [], "rest": ["a"]},
        {"items": [], "line": {}},
        {"items": [], "payment": {}},
        {},
    ):
        assert new.is_valid(payload) == old.is_valid(payload), payload


def test_types_when_read_back_are_the_same_in_both_formats() -> None:
    texts = [json.dumps(asyncapi_of(TYPES, title="t", version="1")), json.dumps(document_of(TYPES))]
    from_asyncapi, from_json_schema = map(read_types, texts)
    assert from_json_schema == TYPES
    assert compare(from_asyncapi, TYPES) == compare(TYPES, from_asyncapi) == []
    assert from_asyncapi["order-paid"]["upcasters"] == [["1", "2"]]
    assert from_asyncapi["proto"] == TYPES["proto"]


def test_types_when_a_payload_changes_are_not_the_same_in_either_format() -> None:
    changed = {**TYPES, "order-paid": {**PAID, "payload": {**PAYLOAD, "required": []}}}
    other = read_types(json.dumps(asyncapi_of(changed, title="t", version="1")))
    assert compare(TYPES, other) == compare(TYPES, changed) != []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is not JSON"),
        ("NaN", "NaN is no JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "it is not JSON"),
        ("{}", "no format 'eda-schemas'"),
        ('{"x-eda": {"format": "eda-schemas", "version": 2}}', "its version is 2"),
        ('{"x-eda": {"format": "eda-schemas", "version": 1}, "$defs": []}', "not an object"),
        ('{"x-eda": {"format": "eda-schemas", "version": 1}, "$defs": {"a": {}}}', "no complete `x-eda`"),
        ('{"x-eda": {"format": "eda-schemas", "version": 1}, "$defs": {"a": {"x-eda": {}}}}', "'a' is not complete"),
        ('{"asyncapi": "3.0.0"}', "not one of `eda schema export`"),
        ('{"asyncapi": "3.0.0", "components": {"messages": {"a": {"payload": {}}}}}', "no complete `x-eda`"),
        ('{"asyncapi": "3.0.0", "components": {"messages": {"a": {"payload": 7, "x-eda": {"type": 7}}}}}', "`x-eda`"),
    ],
)
def test_text_when_it_is_no_exported_document_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_types(text)
    assert reason in str(caught.value)
