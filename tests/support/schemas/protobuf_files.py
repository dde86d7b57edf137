"""Makes protobuf message classes from descriptions, without protoc."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

__all__ = ["message"]


def message(text: str, name: str = "M", syntax: str = "proto3") -> Any:
    """Return the class of a message of a file, which is given in the text format of FileDescriptorProto."""
    file = text_format.Parse(
        f'name: "made.proto" package: "shop" syntax: "{syntax}" {text}', descriptor_pb2.FileDescriptorProto()
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shop.{name}"))
