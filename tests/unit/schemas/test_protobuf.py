"""eda.schemas: protobuf messages, described and compared by the rules of protobuf's wire format."""

from __future__ import annotations

from typing import Any

import pytest

from eda.schemas.protobuf_coverage import cut_values, protobuf_gaps, reused_numbers
from eda.schemas.protobuf_schema import proto_text, protobuf_schema
from support.schemas.protobuf_files import message

OPTIONAL, REQUIRED, REPEATED = "LABEL_OPTIONAL", "LABEL_REQUIRED", "LABEL_REPEATED"


def field(name: str, number: int, type_: str = "STRING", label: str = OPTIONAL, more: str = "") -> str:
    return f'field {{ name: "{name}" number: {number} type: TYPE_{type_} label: {label} {more} }} '


def of(*parts: str, others: str = "", syntax: str = "proto3") -> dict[str, Any]:
    return protobuf_schema(message(f'message_type {{ name: "M" {" ".join(parts)} }} {others}', syntax=syntax))


def colored(*values: str, syntax: str = "proto3") -> dict[str, Any]:
    listed = " ".join(f'value {{ name: "V{value}" number: {value} }}' for value in values if value.isdigit())
    reserved = " ".join(value for value in values if not value.isdigit())
    enum = f'enum_type {{ name: "Color" {listed} {reserved} }}'
    return of(field("color", 1, "ENUM", more='type_name: ".shop.Color"'), others=enum, syntax=syntax)


def nested(inner: str) -> dict[str, Any]:
    return of(field("inner", 1, "MESSAGE", more='type_name: ".shop.N"'), others=f'message_type {{ name: "N" {inner} }}')


def in_oneof(*names: str) -> str:
    fields = (
        field(name, number, more="oneof_index: 0" if name.isupper() else "") for number, name in enumerate(names, 1)
    )
    return "".join(fields) + ('oneof_decl { name: "choice" }' if "A" in names else "")


PLAIN = of(field("a", 1))
RESERVED = of("reserved_range { start: 1 end: 3 }")

# What changes, the old and the new message, and at which fields new readers and old readers break.
CHANGES: list[tuple[str, Any, Any, list[str], list[str]]] = [
    ("nothing", PLAIN, PLAIN, [], []),
    ("a field is added", PLAIN, of(field("a", 1), field("b", 2)), [], []),
    ("a field is removed", of(field("a", 1), field("b", 2)), PLAIN, [], []),
    ("a field is renamed", PLAIN, of(field("other", 1)), [], []),
    ("a number is another type", PLAIN, of(field("a", 1, "INT32")), [".a"], [".a"]),
    ("integers of one group", of(field("a", 1, "INT32")), of(field("a", 1, "UINT32")), [], []),
    ("a wider integer", of(field("a", 1, "INT32")), of(field("a", 1, "INT64")), [], []),
    ("bool and integer", of(field("a", 1, "BOOL")), of(field("a", 1, "INT64")), [], []),
    ("signed integers of another group", of(field("a", 1, "INT32")), of(field("a", 1, "SINT32")), [".a"], [".a"]),
    ("fixed of one group", of(field("a", 1, "FIXED32")), of(field("a", 1, "SFIXED32")), [], []),
    ("fixed of another width", of(field("a", 1, "FIXED32")), of(field("a", 1, "FIXED64")), [".a"], [".a"]),
    ("float and double", of(field("a", 1, "FLOAT")), of(field("a", 1, "DOUBLE")), [".a"], [".a"]),
    ("a text as bytes", PLAIN, of(field("a", 1, "BYTES")), [], [".a"]),
    ("a field becomes repeated", PLAIN, of(field("a", 1, label=REPEATED)), [".a"], [".a"]),
    ("in a nested message", nested(field("x", 1)), nested(field("x", 1, "INT32")), [".inner.x"], [".inner.x"]),
    ("two fields get a oneof", of(in_oneof("a", "b")), of(in_oneof("A", "B")), [""], []),
    ("one field gets a oneof", of(in_oneof("a", "b")), of(in_oneof("A", "b")), [], []),
    ("a field is added to a oneof", of(in_oneof("A", "b")), of(in_oneof("A", "b", "C")), [], []),
    ("a value is added to an open enum", colored("0"), colored("0", "1"), [], []),
    ("a closed enum", colored("0", syntax="proto2"), colored("0", "1", syntax="proto2"), [], [".color"]),
    ("an enum becomes an integer", colored("0"), of(field("color", 1, "INT32")), [], []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "new_readers", "old_readers"), [row[1:] for row in CHANGES], ids=[r[0] for r in CHANGES]
)
def test_change_when_compared_breaks_these_readers(
    old: Any, new: Any, new_readers: list[str], old_readers: list[str]
) -> None:
    assert [gap.path.lower() for gap in protobuf_gaps(old, new)] == new_readers
    assert [gap.path.lower() for gap in protobuf_gaps(new, old)] == old_readers


def test_required_field_of_proto2_when_added_breaks_new_readers() -> None:
    old = of(field("a", 1), syntax="proto2")
    new = of(field("a", 1, label=REQUIRED), syntax="proto2")
    assert [gap.path for gap in protobuf_gaps(old, new)] == [".a"]
    assert protobuf_gaps(new, old) == []
    assert proto_text(new) == 'syntax = "proto2";\n\n// @RootNode\nmessage shop_M {\n  required string a = 1;\n}\n'


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        (of(field("a", 1), field("b", 2)), PLAIN, ["shop.M.2"]),
        (of(field("a", 1), field("b", 2)), of(field("a", 1), "reserved_range { start: 2 end: 3 }"), []),
        (RESERVED, of(field("b", 2)), ["shop.M.2"]),
        (RESERVED, of(field("c", 3)), []),
        (colored("0", "1"), colored("0"), ["shop.Color.1"]),
        (colored("0", "1"), colored("0", "reserved_range { start: 1 end: 1 }"), []),
        (nested(field("x", 1)), nested(""), ["shop.N.1"]),
    ],
)
def test_number_when_removed_or_used_again_is_found(old: Any, new: Any, paths: list[str]) -> None:
    assert [gap.path for gap in reused_numbers(old, new)] == paths


def test_number_when_the_reader_has_a_smaller_type_is_a_notice() -> None:
    wide, narrow = of(field("a", 1, "INT64")), of(field("a", 1, "INT32"))
    assert [gap.path for gap in cut_values(wide, narrow)] == [".a"]
    assert cut_values(narrow, wide) == []
    assert protobuf_gaps(wide, narrow) == []
    assert [gap.path for gap in cut_values(colored("0", "1"), colored("0"))] == [".color"]


@pytest.mark.parametrize(
    ("mine", "theirs", "found"),
    [
        ("INT32", "UINT32", "reads negative numbers as large ones"),
        ("INT64", "UINT64", "reads negative numbers as large ones"),
        ("UINT64", "INT64", "reads large numbers as negative ones"),
        ("FIXED32", "SFIXED32", "reads large numbers as negative ones"),
        ("UINT32", "INT64", None),
        ("INT32", "INT64", None),
        ("BOOL", "UINT32", None),
    ],
)
def test_number_when_the_reader_takes_it_with_another_sign_is_a_notice(
    mine: str, theirs: str, found: str | None
) -> None:
    writer, reader = of(field("a", 1, mine)), of(field("a", 1, theirs))
    assert protobuf_gaps(writer, reader) == []
    assert [gap.change.partition(" and ")[2] for gap in cut_values(writer, reader)] == ([found] if found else [])


def test_message_when_described_has_maps_oneofs_enums_and_itself() -> None:
    entry = (
        'nested_type { name: "TagsEntry" options { map_entry: true } '
        + field("key", 1)
        + field("value", 2, "ENUM", more='type_name: ".shop.Color"')
        + "}"
    )
    schema = of(
        entry,
        field("tags", 1, "MESSAGE", REPEATED, 'type_name: ".shop.M.TagsEntry"'),
        field("kids", 2, "MESSAGE", REPEATED, 'type_name: ".shop.M"'),
        field("card", 3, more="oneof_index: 0"),
        field("cash", 4, "BOOL", more="oneof_index: 0"),
        field("note", 5, more="oneof_index: 1 proto3_optional: true"),
        'oneof_decl { name: "payment" } oneof_decl { name: "_note" }',
        others='enum_type { name: "Color" value { name: "RED" number: 0 } value { name: "BLUE" number: 2 } }',
    )
    assert schema["messages"]["shop.M"]["fields"]["3"] == {"name": "card", "type": "string", "oneof": "payment"}
    assert schema["messages"]["shop.M"]["fields"]["5"] == {"name": "note", "type": "string"}
    assert schema["enums"] == {"shop.Color": {"values": {"0": "RED", "2": "BLUE"}}}
    assert protobuf_gaps(schema, schema) == []
    assert proto_text(schema) == (
        'syntax = "proto3";\n\n// @RootNode\nmessage shop_M {\n  map<string, shop_Color> tags = 1;\n'
        "  repeated shop_M kids = 2;\n  string note = 5;\n"
        "  oneof payment {\n    string card = 3;\n    bool cash = 4;\n  }\n}\n\n"
        "enum shop_Color {\n  shop_Color_RED = 0;\n  shop_Color_BLUE = 2;\n}\n"
    )
