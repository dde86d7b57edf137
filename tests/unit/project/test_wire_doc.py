"""docs/wire.md: its protobuf block is valid proto3, and says what the codec and its reference do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from proto_schema_parser.ast import Field, MapField, Message, Reserved
from proto_schema_parser.parser import Parser

from support.reference import NUMBERS, PACK, Envelope

WIRE = Path(__file__).resolve().parents[3] / "docs" / "wire.md"


def proto_block() -> str:
    (block,) = re.findall(r"^```proto\n(.*?)^```", WIRE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(block)


def test_proto_when_parsed_is_valid_and_the_reference(capfd: pytest.CaptureFixture[str]) -> None:
    file = Parser().parse(proto_block())
    assert capfd.readouterr() == ("", "")  # the parser prints what is wrong, and goes on
    assert file.syntax == "proto3"
    (message,) = file.file_elements
    assert isinstance(message, Message)
    described = descriptor_pb2.DescriptorProto()
    Envelope.DESCRIPTOR.CopyToProto(described)
    types = {number: name for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()}
    wanted = {
        field.name: (field.number, types[field.type].removeprefix("TYPE_").lower())
        for field in described.field
        if field.name != "meta"
    }
    assert message.name == described.name
    assert {e.name: (e.number, e.type) for e in message.elements if isinstance(e, Field)} == wanted
    (meta,) = [element for element in message.elements if isinstance(element, MapField)]
    assert (meta.name, meta.number, meta.key_type, meta.value_type) == ("meta", NUMBERS["meta"], "string", "string")


def test_proto_when_it_reserves_numbers_reserves_those_of_packs_and_none_in_use() -> None:
    (message,) = Parser().parse(proto_block()).file_elements
    assert isinstance(message, Message)
    reserved: set[int] = set()
    for element in message.elements:
        for span in element.ranges if isinstance(element, Reserved) else ():
            first, _, last = span.partition(" to ")
            reserved |= set(range(int(first), int(last or first) + 1))
    assert reserved == {9, 14, 16, *PACK}
    assert reserved.isdisjoint(NUMBERS.values())
