"""The comparison of two descriptions of protobuf messages, by the rules of protobuf's wire format.

Names of fields, messages and enums are not on the wire, so they may change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eda.schemas.finding import Gap

__all__ = ["cut_values", "protobuf_gaps", "reused_numbers"]

Schema = dict[str, Any]

# Types whose bytes a reader takes for each other. Protobuf calls them compatible.
_GROUPS = (
    ("int32", "uint32", "int64", "uint64", "bool", "enum"),
    ("sint32", "sint64"),
    ("fixed32", "sfixed32"),
    ("fixed64", "sfixed64"),
)
_GROUP_OF = {name: group for group in _GROUPS for name in group}
# The values of the types that a reader may cut off, because it takes a smaller type.
_BITS = {"bool": 1, "int32": 32, "uint32": 32, "enum": 32, "sint32": 32, "int64": 64, "uint64": 64, "sint64": 64}

_UNSIGNED = ("uint32", "uint64", "fixed32", "fixed64")
_SIGNED = ("int32", "int64", "sint32", "sint64", "sfixed32", "sfixed64", "enum")


def protobuf_gaps(writer: Schema, reader: Schema) -> list[Gap]:
    """Return the gaps between a writer's message and a reader's message."""
    return list(dict.fromkeys(_Comparison(writer, reader).gaps()))


def cut_values(writer: Schema, reader: Schema) -> list[Gap]:
    """Return where a reader silently gets another number than the writer wrote: it was cut off, or has another sign."""
    comparison = _Comparison(writer, reader)
    list(comparison.gaps())
    return list(dict.fromkeys(comparison.cut))


def reused_numbers(old: Schema, new: Schema) -> list[Gap]:
    """Return the numbers that were removed without being reserved, and those that were reserved and are used again."""
    comparison = _Comparison(old, new)
    list(comparison.gaps())
    found = []
    for name, other in sorted(comparison.visited):
        message = old["messages"][name]
        if not message.get("map"):
            found += _numbers(name, message, new["messages"][other], "fields", "field")
    for name, other in sorted(comparison.visited_enums):
        found += _numbers(name, old["enums"][name], new["enums"][other], "values", "value")
    return found


def _numbers(name: str, old: Schema, new: Schema, part: str, noun: str) -> list[Gap]:
    gaps = []
    for number in old[part]:
        if number not in new[part] and not _is_reserved(int(number), new):
            text = f"the number {number} of a removed {noun} is not reserved, so a later {noun} may get it"
            gaps.append(Gap(f"{name}.{number}", "number", text))
    for number in new[part]:
        if number not in old[part] and _is_reserved(int(number), old):
            text = f"the number {number} was reserved, because an earlier {noun} had it, and now it is used again"
            gaps.append(Gap(f"{name}.{number}", "number", text))
    return gaps


def _is_reserved(number: int, part: Schema) -> bool:
    return any(start <= number <= end for start, end in part.get("reserved", ()))


class _Comparison:
    """Compares all pairs of messages that a pair of roots leads to, each pair once."""

    def __init__(self, writer: Schema, reader: Schema) -> None:
        self.writer = writer
        self.reader = reader
        self.visited: set[tuple[str, str]] = set()
        self.visited_enums: set[tuple[str, str]] = set()
        self.cut: list[Gap] = []

    def gaps(self) -> Iterator[Gap]:
        yield from self.message_gaps(self.writer["message"], self.reader["message"], "")

    def message_gaps(self, writer: str, reader: str, path: str) -> Iterator[Gap]:
        if (writer, reader) in self.visited:
            return
        self.visited.add((writer, reader))
        mine: Schema = self.writer["messages"][writer]["fields"]
        theirs: Schema = self.reader["messages"][reader]["fields"]
        for number, field in theirs.items():
            at = f"{path}.{field['name']}"
            if field.get("label") == "required" and mine.get(number, {}).get("label") != "required":
                yield Gap(at, "required", f"{{writer}} may lack field {number}, but {{reader}} requires it")
            if number in mine:
                yield from self.field_gaps(mine[number], field, number, at)
        yield from _oneof_gaps(mine, theirs, path)

    def field_gaps(self, writer: Schema, reader: Schema, number: str, at: str) -> Iterator[Gap]:
        if (writer.get("label") == "repeated") != (reader.get("label") == "repeated"):
            labels = ["repeated" if field.get("label") == "repeated" else "single" for field in (writer, reader)]
            text = f"in {{writer}} field {number} is {labels[0]}, but for {{reader}} it is {labels[1]}"
            yield Gap(at, "type", text)
        mine, theirs = writer["type"], reader["type"]
        if mine == theirs and "of" in writer:
            compare = self.enum_gaps if mine == "enum" else self.message_gaps
            yield from compare(writer["of"], reader["of"], at)
        elif mine != theirs and not _is_compatible(mine, theirs):
            text = f"in {{writer}} field {number} is {mine}, but {{reader}} takes it for {theirs}"
            yield Gap(at, "type", text)
        elif _BITS.get(mine, 0) > _BITS.get(theirs, 0):
            self.cut.append(Gap(at, "cut", f"{{reader}} takes field {number} for {theirs} and cuts off larger values"))
        elif mine in _SIGNED and theirs in _UNSIGNED:
            text = f"{{reader}} takes field {number} for {theirs} and reads negative numbers as large ones"
            self.cut.append(Gap(at, "cut", text))
        elif mine in _UNSIGNED and theirs in _SIGNED and not (mine == "uint32" and theirs == "int64"):
            text = f"{{reader}} takes field {number} for {theirs} and reads large numbers as negative ones"
            self.cut.append(Gap(at, "cut", text))

    def enum_gaps(self, writer: str, reader: str, at: str) -> Iterator[Gap]:
        self.visited_enums.add((writer, reader))
        enum: Schema = self.reader["enums"][reader]
        for number, name in self.writer["enums"][writer]["values"].items():
            if number in enum["values"]:
                continue
            text = f"{{writer}} may have the value {number} ({name}), which {{reader}} does not know"
            if enum.get("closed"):
                yield Gap(at, "value", f"{text}: the field will seem to be missing")
            else:
                self.cut.append(Gap(at, "cut", f"{text}: {{reader}} gets the bare number"))


def _is_compatible(writer: str, reader: str) -> bool:
    if writer in _GROUP_OF:
        return reader in _GROUP_OF[writer]
    # Each text is bytes, but not all bytes are a text.
    return (writer, reader) == ("string", "bytes")


def _oneof_gaps(writer: Schema, reader: Schema, path: str) -> Iterator[Gap]:
    """Yield the fields that the writer may set together, and of which the reader keeps only the last one."""
    groups: dict[str, list[str]] = {}
    for number, field in reader.items():
        if "oneof" in field and number in writer:
            groups.setdefault(field["oneof"], []).append(number)
    for name, numbers in groups.items():
        theirs = [writer[number].get("oneof") for number in numbers]
        if len(numbers) > 1 and (None in theirs or len(set(theirs)) > 1):
            fields = ", ".join(reader[number]["name"] for number in numbers)
            text = f"{{writer}} may set {fields} together, but {{reader}} keeps only one of them (oneof {name})"
            yield Gap(path, "type", text)
