"""The description of a protobuf message: its fields by number, as the wire has them, and its .proto text."""

from __future__ import annotations

from typing import Any

__all__ = ["proto_text", "protobuf_schema"]

Schema = dict[str, Any]

_TYPES = (
    *("", "double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string", "group", "message"),
    *("bytes", "uint32", "enum", "sfixed32", "sfixed64", "sint32", "sint64"),
)
_REQUIRED, _REPEATED = 2, 3


def protobuf_schema(cls: type[Any]) -> Schema:
    """Return the description of a message class: all messages and enums that its fields lead to, by their full names.

    Names of messages are those of the .proto file, not of Python.
    """
    messages: dict[str, Schema] = {}
    enums: dict[str, Schema] = {}
    waiting = [cls.DESCRIPTOR]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name in messages:
            continue
        messages[descriptor.full_name] = _message(descriptor)
        for field in descriptor.fields:
            if field.message_type is not None:
                waiting.append(field.message_type)
            elif field.enum_type is not None:
                enums[field.enum_type.full_name] = _enum(field.enum_type)
    schema: Schema = {"message": cls.DESCRIPTOR.full_name, "messages": dict(sorted(messages.items()))}
    if enums:
        schema["enums"] = dict(sorted(enums.items()))
    return schema


def _message(descriptor: Any) -> Schema:
    # Imported here, because only a program that declares a protobuf message needs protobuf. It has loaded it already.
    from google.protobuf.descriptor_pb2 import DescriptorProto

    raw = DescriptorProto()
    descriptor.CopyToProto(raw)
    labels = {field.number: field.label for field in raw.field}
    fields = {}
    for field in sorted(descriptor.fields, key=lambda field: field.number):
        schema: Schema = {"name": field.name, "type": _TYPES[field.type]}
        if field.message_type is not None or field.enum_type is not None:
            schema["of"] = (field.message_type or field.enum_type).full_name
        if labels[field.number] == _REPEATED:
            schema["label"] = "repeated"
        elif labels[field.number] == _REQUIRED or getattr(field, "is_required", False) is True:
            schema["label"] = "required"
        oneof = field.containing_oneof
        if oneof is not None and not any(each.proto3_optional for each in raw.field if each.number == field.number):
            schema["oneof"] = oneof.name
        fields[str(field.number)] = schema
    made: Schema = {"fields": fields}
    if descriptor.GetOptions().map_entry:
        made["map"] = True
    reserved = [[each.start, each.end - 1] for each in raw.reserved_range]  # in messages, the end is not in the range
    return {**made, "reserved": sorted(reserved)} if reserved else made


def _enum(descriptor: Any) -> Schema:
    from google.protobuf.descriptor_pb2 import EnumDescriptorProto, FileDescriptorProto

    raw = EnumDescriptorProto()
    descriptor.CopyToProto(raw)
    values: dict[str, str] = {}
    for value in sorted(raw.value, key=lambda value: value.number):
        values.setdefault(str(value.number), value.name)  # a later name of the same number is an alias
    made: Schema = {"values": values}
    is_closed = getattr(descriptor, "is_closed", None)
    if is_closed is None:
        file = FileDescriptorProto.FromString(descriptor.file.serialized_pb)
        is_closed = file.syntax in ("", "proto2")
    if is_closed:
        made["closed"] = True
    reserved = [[each.start, each.end] for each in raw.reserved_range]  # in enums, the end is in the range
    return {**made, "reserved": sorted(reserved)} if reserved else made


def proto_text(schema: Schema) -> str:
    """Return the description as the text of a .proto file, with the messages side by side.

    It has what the wire depends on. Packages are left out, and the dots of nested names become underscores.
    """
    is_proto2 = any(enum.get("closed") for enum in schema.get("enums", {}).values()) or any(
        field.get("label") == "required"
        for message in schema["messages"].values()
        for field in message["fields"].values()
    )
    lines = [f'syntax = "{"proto2" if is_proto2 else "proto3"}";']
    messages: dict[str, Schema] = schema["messages"]
    for name in sorted(messages, key=lambda name: (name != schema["message"], name)):
        if not messages[name].get("map"):
            # Tools for AsyncAPI need the mark to know the payload's message among the others.
            lines += [
                "",
                *(["// @RootNode"] if name == schema["message"] else []),
                f"message {_flat(name)} {{",
                *_message_lines(messages[name], messages, is_proto2),
                "}",
            ]
    for name, enum in schema.get("enums", {}).items():
        values = sorted(enum["values"].items(), key=lambda item: (item[0] != "0", int(item[0])))
        # Names of values are names beside their enum, so two enums may not share one.
        lines += ["", f"enum {_flat(name)} {{"]
        lines += [f"  {_flat(name)}_{value} = {number};" for number, value in values]
        lines += [*_reserved_lines(enum), "}"]
    return "\n".join(lines) + "\n"


def _message_lines(message: Schema, messages: dict[str, Schema], is_proto2: bool) -> list[str]:
    lines: list[str] = []
    oneofs: dict[str, list[str]] = {}
    for number, field in message["fields"].items():
        text = f"{_type_text(field, messages)} {field['name']} = {number};"
        if "oneof" in field:
            oneofs.setdefault(field["oneof"], []).append(f"    {text}")
            continue
        label = field.get("label", "optional" if is_proto2 else "")
        if text.startswith("map<"):
            label = ""
        lines.append(f"  {label} {text}" if label else f"  {text}")
    for name, inner in oneofs.items():
        lines += [f"  oneof {name} {{", *inner, "  }"]
    return lines + _reserved_lines(message)


def _type_text(field: Schema, messages: dict[str, Schema]) -> str:
    entry = messages.get(field.get("of", ""), {})
    if entry.get("map"):
        key, value = (_type_text(entry["fields"][number], messages) for number in ("1", "2"))
        return f"map<{key}, {value}>"
    return _flat(field["of"]) if "of" in field else str(field["type"])


def _reserved_lines(part: Schema) -> list[str]:
    ranges = [f"{start}" if start == end else f"{start} to {end}" for start, end in part.get("reserved", ())]
    return [f"  reserved {', '.join(ranges)};"] if ranges else []


def _flat(name: str) -> str:
    return name.replace(".", "_")
