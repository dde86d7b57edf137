"""eda.encodings: values to bytes and back, by name; every failure is an EdaError."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypedDict
from uuid import UUID

import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from eda.encodings import decode_value, encode_value, is_registered, register_encoding
from eda.errors import ConfigError, DecodeError, EncodeError, UnknownEncoding

BUILT_IN = ["bytes", "string", "json", "msgpack", "proto", "nil"]


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class PointStruct(msgspec.Struct):
    x: int


class PointDict(TypedDict):
    x: int


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def fail(error: BaseException) -> Callable[[Any], Any]:
    def function(_: Any) -> Any:
        raise error

    return function


counter = itertools.count()


def register(encode: Any = bytes, decode: Any = bytes) -> str:
    """Register an encoding under a name of its own: a test may need several."""
    name = f"test-{next(counter)}"
    register_encoding(name, encode, decode)
    return name


texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)
times = st.datetimes(timezones=st.just(UTC))
msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary()
    | times,
    lambda inner: st.lists(inner) | st.dictionaries(texts | st.integers(-(2**63), 2**64 - 1), inner),
    max_leaves=20,
)


@given(st.binary())
def test_bytes_when_round_tripped_are_equal(value: bytes) -> None:
    for kind in (bytes, bytearray, memoryview):
        assert decode_value("bytes", encode_value("bytes", kind(value)), None, "") == value


@given(texts)
def test_string_when_round_tripped_is_equal(value: str) -> None:
    assert decode_value("string", encode_value("string", value), None, "") == value


@given(json_values)
def test_json_when_round_tripped_is_equal(value: Any) -> None:
    assert decode_value("json", encode_value("json", value), None, "") == value


@given(msgpack_values)
def test_msgpack_when_round_tripped_is_equal(value: Any) -> None:
    assert decode_value("msgpack", encode_value("msgpack", value), None, "") == value


@given(texts)
def test_proto_when_round_tripped_is_equal(value: str) -> None:
    message = StringValue(value=value)
    assert decode_value("proto", encode_value("proto", message), StringValue, "") == message


def test_nil_when_round_tripped_is_none() -> None:
    assert encode_value("nil", None) == b""
    assert decode_value("nil", b"", None, "") is None


types = st.sampled_from([None, int, Point])


@given(st.sampled_from(["string", "json", "msgpack", "nil"]), st.binary(), types)
def test_decode_when_given_any_bytes_gives_a_value_or_decode_error(name: str, data: bytes, into: Any) -> None:
    with suppress(DecodeError):
        decode_value(name, data, into, "e1")


@given(st.binary())
def test_proto_when_given_any_bytes_gives_a_message_or_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        assert isinstance(decode_value("proto", data, Struct, ""), Struct)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bytes", "text"),
        ("bytes", [1, 2]),
        ("bytes", 5),
        ("bytes", None),
        ("string", b"bytes"),
        ("string", 5),
        ("string", "\ud800"),
        ("json", object()),
        ("json", {"key": object()}),
        ("json", {(1, 2): 3}),
        ("json", "\ud800"),
        ("json", nested(100_000)),
        ("msgpack", object()),
        ("msgpack", 2**64),
        ("msgpack", datetime(2024, 1, 1)),
        ("msgpack", nested(100_000)),
        ("proto", {"a": 1}),
        ("proto", StringValue),
        ("nil", b""),
        ("nil", 0),
    ],
)
def test_encode_when_the_value_does_not_fit_raises_encode_error(name: str, value: Any) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_value(name, value)
    assert (caught.value.encoding, caught.value.value_type) == (name, type(value).__qualname__)
    assert isinstance(caught.value.__cause__, Exception)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda number: number,
        lambda number: {"a": [None, number]},
        lambda number: {"big": 2**70, "a": number},
        lambda number: msgspec.defstruct("Holder", [("a", float)])(number),
    ],
)
def test_json_when_a_number_is_not_finite_is_refused(number: float, wrap: Callable[[float], Any]) -> None:
    with pytest.raises(EncodeError, match="JSON compliant"):
        encode_value("json", wrap(number))


def test_json_when_binary_only_looks_like_nan_is_encoded() -> None:
    value = {"null": None, "binary": b"\xcb\x7f\xf8\0\0\0\0\0\0", "big": 2**70}
    assert decode_value("json", encode_value("json", value), None, "")["null"] is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("string", b"\xff"),
        ("json", b""),
        ("json", b"{"),
        ("json", b"NaN"),
        ("json", b'"\xff"'),
        ("json", b"[" * 100_000),
        ("msgpack", b""),
        ("msgpack", b"\x01\x02"),
        ("msgpack", b"\x91" * 100_000 + b"\x01"),
        ("msgpack", b"\x81\x90\x01"),
        ("msgpack", b"\xdd\xff\xff\xff\xff"),
        ("nil", b"x"),
        ("proto", b"\xff"),
    ],
)
def test_decode_when_the_bytes_are_bad_raises_decode_error(name: str, data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_value(name, data, Struct if name == "proto" else None, "e7")
    assert (caught.value.encoding, caught.value.event_id) == (name, "e7")
    assert isinstance(caught.value.__cause__, Exception)


@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.parametrize(
    ("into", "value"),
    [(Point, Point(1)), (PointStruct, PointStruct(1)), (PointDict, {"x": 1}), (dict[str, int], {"x": 1})],
)
def test_decode_when_a_type_is_given_gives_that_type(name: str, into: Any, value: Any) -> None:
    data = encode_value(name, {"x": 1})
    assert decode_value(name, data, into, "") == value
    assert decode_value(name, data, list[Point] | into, "") == value


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_decode_when_the_value_does_not_fit_the_type_raises_decode_error(name: str) -> None:
    with pytest.raises(DecodeError, match="Expected `int`, got `str`"):
        decode_value(name, encode_value(name, {"x": "one"}), Point, "")


@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.parametrize("value", [Point(1, 2), PointStruct(3), [Point(1), None]])
def test_encode_when_given_dataclasses_and_structs_writes_their_fields(name: str, value: Any) -> None:
    assert decode_value(name, encode_value(name, value), None, "") == msgspec.to_builtins(value)


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_encode_when_given_attrs_writes_its_fields(name: str) -> None:
    attrs = pytest.importorskip("attrs")
    cls = attrs.make_class("PointAttrs", {"x": attrs.field(type=int)})
    assert decode_value(name, encode_value(name, cls(x=4)), cls, "") == cls(x=4)


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_decode_when_given_a_pydantic_model_validates_it(name: str) -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("PointModel", x=(int, ...), at=(datetime, ...))
    value = model(x=1, at=datetime(2024, 1, 1, tzinfo=UTC))
    data = encode_value(name, {"point": value})
    assert decode_value(name, data, dict[str, model], "") == {"point": value}
    assert decode_value(name, encode_value(name, value), model, "") == value
    with pytest.raises(DecodeError, match="ValidationError"):
        decode_value(name, encode_value(name, {}), model, "")


def test_msgpack_when_given_rich_values_keeps_binary_and_time() -> None:
    value = {"b": b"\xff", "t": datetime(2024, 1, 1, tzinfo=UTC), "u": UUID(int=1), "d": Decimal("1.50")}
    back = decode_value("msgpack", encode_value("msgpack", value), None, "")
    assert back == {"b": b"\xff", "t": value["t"], "u": str(UUID(int=1)), "d": "1.50"}


@pytest.mark.parametrize(
    ("name", "data", "into", "value"),
    [("bytes", b"x", bytearray, bytearray(b"x")), ("bytes", b"x", bytes, b"x"), ("string", b"x", str, "x")],
)
def test_decode_when_it_has_a_type_converts(name: str, data: bytes, into: Any, value: Any) -> None:
    back = decode_value(name, data, into, "")
    assert (type(back), back) == (into, value)


def test_decode_when_the_type_is_not_hashable_decodes() -> None:
    into = Annotated[int, msgspec.Meta(extra={"unit": "m"}), ["not hashable"]]
    assert decode_value("json", b"5", into, "") == 5


@pytest.mark.parametrize("into", [5, "Point", lambda: None])
def test_decode_when_into_is_no_type_raises_decode_error(into: Any) -> None:
    with pytest.raises(DecodeError):
        decode_value("json", b"{}", into, "")


@pytest.mark.parametrize("into", [None, Point, int])
def test_proto_when_decoded_without_message_class_raises_config_error(into: Any) -> None:
    with pytest.raises(ConfigError, match="message class") as caught:
        decode_value("proto", b"", into, "")
    assert caught.value.argument == "into"


def test_unknown_encoding_when_used_is_named() -> None:
    with pytest.raises(UnknownEncoding, match="'avro'"):
        encode_value("avro", 1)
    with pytest.raises(UnknownEncoding, match="'avro' of event e1"):
        decode_value("avro", b"", None, "e1")


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_encoding_when_asked_is_registered(name: str) -> None:
    assert is_registered(name)
    assert not is_registered(name.upper())


def test_registered_encoding_when_used_works_in_both_directions() -> None:
    name = register(lambda value: repr(value).encode(), lambda data: int(data))
    assert is_registered(name)
    assert encode_value(name, 12) == b"12"
    assert decode_value(name, b"12", None, "") == 12


def test_registered_encoding_when_a_type_is_given_converts_its_value() -> None:
    name = register(decode=lambda data: {"x": len(data)})
    assert decode_value(name, b"abc", Point, "") == Point(3)
    assert decode_value(name, b"abc", dict, "") == {"x": 3}


def test_registered_encoding_when_registered_again_is_replaced() -> None:
    name = register(lambda value: b"old")
    register_encoding(name, lambda value: b"new", bytes)
    assert encode_value(name, None) == b"new"


def test_registered_encoding_when_it_gives_no_bytes_raises_encode_error() -> None:
    with pytest.raises(EncodeError, match="its encoder gave str, not bytes"):
        encode_value(register(lambda value: "text"), None)


@pytest.mark.parametrize("error", [KeyError("k"), RecursionError(), UnknownEncoding("other")])
def test_registered_encoding_when_it_fails_is_chained(error: Exception) -> None:
    name = register(fail(error), fail(error))
    with pytest.raises(EncodeError) as encoding:
        encode_value(name, None)
    with pytest.raises(DecodeError) as decoding:
        decode_value(name, b"", None, "e1")
    assert encoding.value.__cause__ is decoding.value.__cause__ is error


def test_registered_encoding_when_interrupted_lets_the_interrupt_pass() -> None:
    name = register(fail(KeyboardInterrupt()), fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        encode_value(name, None)
    with pytest.raises(KeyboardInterrupt):
        decode_value(name, b"", None, "")


def test_reason_when_the_cause_says_much_is_cut() -> None:
    with pytest.raises(EncodeError) as caught:
        encode_value(register(fail(ValueError("x" * 100_000))), None)
    assert len(str(caught.value)) < 1000


def test_reason_when_a_pydantic_model_refuses_values_names_the_fields_and_not_the_values() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Person", age=(int, ...), marks=(list[int], ...))
    with pytest.raises(DecodeError) as caught:
        decode_value("json", b'{"age": "secret-1", "marks": [1, "secret-2"]}', model)
    assert "age: Input should be a valid integer" in caught.value.reason
    assert "marks.1: " in caught.value.reason
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "encode", "decode", "argument"),
    [
        ("", bytes, bytes, "name"),
        (5, bytes, bytes, "name"),
        (None, bytes, bytes, "name"),
        ("é" * 33, bytes, bytes, "name"),
        ("\ud800", bytes, bytes, "name"),
        ("mine", None, bytes, "encode"),
        ("mine", bytes, "bytes", "decode"),
        *((name, bytes, bytes, "name") for name in BUILT_IN),
    ],
)
def test_register_when_an_argument_is_bad_raises_config_error(
    name: Any, encode: Any, decode: Any, argument: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        register_encoding(name, encode, decode)
    assert caught.value.argument == argument


def test_register_when_the_name_has_64_bytes_is_accepted() -> None:
    register_encoding("é" * 32, bytes, bytes)
    assert is_registered("é" * 32)
