"""docs/wire.md: its protobuf block is valid proto3, and says what the codec and its reference do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from proto_schema_parser.ast import Field, MapField, Message, Reserved
from proto_schema_parser.parser import Parser

from eda._pack import MAX_EVENTS_OF_PACK, MAX_SIZE_OF_PACK
from support.packs import PackMessage
from support.reference import NUMBERS, PACK, Envelope

WIRE = Path(__file__).resolve().parents[3] / "docs" / "wire.md"


def proto_file() -> str:
    """Return the blocks of the document as one file: first the envelope, then the pack."""
    blocks = re.findall(r"^```proto\n(.*?)^```", WIRE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks)


def described(reference: Any) -> dict[str, tuple[int, str]]:
    """Return the fields of a message of the official package, without `meta`: their numbers and types."""
    message = descriptor_pb2.DescriptorProto()
    reference.DESCRIPTOR.CopyToProto(message)
    types = {number: name for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()}
    return {
        field.name: (field.number, types[field.type].removeprefix("TYPE_").lower())
        for field in message.field
        if field.name != "meta"
    }


def reserved_by(message: Message) -> set[int]:
    reserved: set[int] = set()
    for element in message.elements:
        for span in element.ranges if isinstance(element, Reserved) else ():
            first, _, last = span.partition(" to ")
            reserved |= set(range(int(first), int(last or first) + 1))
    return reserved


def fields_of(message: Message) -> dict[str, tuple[int, str]]:
    return {each.name: (each.number, each.type) for each in message.elements if isinstance(each, Field)}


def test_proto_when_parsed_is_valid_and_the_reference(capfd: pytest.CaptureFixture[str]) -> None:
    file = Parser().parse(proto_file())
    assert capfd.readouterr() == ("", "")  # the parser prints what is wrong, and goes on
    assert file.syntax == "proto3"
    envelope, pack = file.file_elements
    assert isinstance(envelope, Message)
    assert envelope.name == Envelope.DESCRIPTOR.name
    assert fields_of(envelope) == described(Envelope)
    (meta,) = [element for element in envelope.elements if isinstance(element, MapField)]
    assert (meta.name, meta.number, meta.key_type, meta.value_type) == ("meta", NUMBERS["meta"], "string", "string")
    assert isinstance(pack, Message)
    assert pack.name == PackMessage.DESCRIPTOR.name
    # The reference keeps each event as bytes, which is the same on the wire.
    number, _ = described(PackMessage)["events"]
    assert fields_of(pack) == described(PackMessage) | {"events": (number, envelope.name)}
    (events,) = [each for each in pack.elements if isinstance(each, Field) and each.name == "events"]
    assert events.cardinality is not None
    assert events.cardinality.name == "REPEATED"


def test_proto_when_it_reserves_numbers_reserves_those_of_packs_and_none_in_use() -> None:
    envelope, pack = Parser().parse(proto_file()).file_elements
    assert isinstance(envelope, Message)
    assert isinstance(pack, Message)
    assert reserved_by(envelope) == {9, 14, 16, *PACK}
    assert reserved_by(envelope).isdisjoint(NUMBERS.values())
    assert reserved_by(pack) == set(range(1, max(PACK) + 1)) - set(PACK)


@pytest.mark.parametrize(
    ("limit", "text"),
    [(MAX_EVENTS_OF_PACK, "1 to 65,536 events"), (MAX_SIZE_OF_PACK // 2**20, "at most 16 MiB before")],
)
def test_limits_of_packs_are_those_of_the_reader(limit: int, text: str) -> None:
    assert f"{limit:,}" in text
    assert text in WIRE.read_text(encoding="utf-8")
