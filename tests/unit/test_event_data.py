"""eda._event.Data, and the texts that received events share."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eda._codec import decode_fields as decode_event
from eda._codec import encode_event
from eda._data import JSON, Bytes, Data, MsgPack, Proto, String
from eda._event import Event
from eda.encodings import register_encoding
from eda.errors import ConfigError, DecodeError, EncodeError, UnknownEncoding
from support import reference
from support.reference import Envelope, bytes_field

counter = itertools.count()


@dataclasses.dataclass
class Point:
    x: int


class PointStruct(msgspec.Struct):
    x: int


class BytesSubclass(bytes):
    pass


def register(encode: Callable[[Any], Any], decode: Callable[[bytes], Any] = bytes) -> str:
    """Register an encoding under a name of its own: a test may need several."""
    name = f"data-test-{next(counter)}"
    register_encoding(name, encode, decode)
    return name


def received(encoding: str, payload: bytes, event_id: str = "i1") -> Data:
    return decode_event(Envelope(id=event_id, encoding=encoding, data=payload).SerializeToString()).data


# --- encode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "encoding", "payload"),
    [
        (Bytes(b"\xff"), "bytes", b"\xff"),
        (Bytes(bytearray(b"ab")), "bytes", b"ab"),
        (Bytes(memoryview(b"abcd")[::2]), "bytes", b"ac"),
        (Bytes(BytesSubclass(b"ab")), "bytes", b"ab"),
        (String("é"), "string", b"\xc3\xa9"),
        (JSON({"a": [1, None]}), "json", b'{"a":[1,null]}'),
        (JSON(Point(1)), "json", b'{"x":1}'),
        (MsgPack([1]), "msgpack", b"\x91\x01"),
        (Proto(Envelope(id="i")), "proto", b"\n\x01i"),
        (Data("nil"), "nil", b""),
        (Data("json", 1), "json", b"1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_when_encoded_has_the_type_and_bytes_of_its_encoding(data: Data, encoding: str, payload: bytes) -> None:
    assert data.type == encoding
    assert data.encode() == payload
    assert type(data.encode()) is bytes


def test_data_when_encoded_often_calls_the_encoder_once() -> None:
    calls: list[Any] = []
    data = Data(register(lambda value: calls.append(value) or b"x"), 5)
    event = Event(data=data)
    for _ in range(3):
        data.encode()
        encode_event(event)
        encode_event(event.replace(type="t"))
        hash(data)
        pickle.dumps(event)
    assert calls == [5]


def test_data_when_its_value_changes_after_encoding_keeps_the_bytes() -> None:
    value = [1]
    data = JSON(value)
    data.encode()
    value.append(2)
    assert (data.encode(), data.decode()) == (b"[1]", [1])


def test_data_when_made_of_a_bytearray_keeps_what_it_held() -> None:
    buffer = bytearray(b"ab")
    data = Bytes(buffer)
    buffer[:] = b"cd"
    assert data.encode() == b"ab"


def test_data_when_received_gives_its_bytes_without_encoding() -> None:
    name = register(lambda value: pytest.fail("encoded again"), lambda data: "decoded")
    data = received(name, b"raw")
    assert (data.encode(), data.decode()) == (b"raw", "decoded")
    assert data.encode() is data.encode()


def test_data_when_received_under_an_unknown_encoding_gives_its_bytes() -> None:
    assert received("data-test-nobody", b"raw").encode() == b"raw"


@pytest.mark.parametrize(
    ("data", "encoding", "value_type"),
    [
        (Bytes("text"), "bytes", "str"),
        (String(b"x"), "string", "bytes"),
        (JSON({1, object()}), "json", "set"),
        (MsgPack(object()), "msgpack", "object"),
        (Proto({"a": 1}), "proto", "dict"),
        (Data("nil", 1), "nil", "int"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_when_the_value_does_not_fit_names_encoding_and_type(data: Data, encoding: str, value_type: str) -> None:
    for _ in range(2):
        with pytest.raises(EncodeError, match=f"cannot encode {value_type} as {encoding}") as caught:
            data.encode()
        assert (caught.value.encoding, caught.value.value_type) == (encoding, value_type)


def test_data_when_nobody_registered_the_encoding_says_so() -> None:
    with pytest.raises(UnknownEncoding, match="unknown encoding 'data-test-nobody'"):
        Data("data-test-nobody", 1).encode()


@pytest.mark.parametrize("name", [None, 5, b"json"])
def test_data_when_its_type_is_no_str_is_refused(name: Any) -> None:
    with pytest.raises(TypeError):
        Data(name, 1)


def test_data_when_an_encoder_gives_a_subclass_of_bytes_takes_it() -> None:
    assert Data(register(BytesSubclass), b"ab").encode() == b"ab"


# --- decode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "into", "value"),
    [
        (Bytes(b"\xff"), None, b"\xff"),
        (String("é"), None, "é"),
        (JSON({"x": 1}), None, {"x": 1}),
        (JSON({"x": 1}), Point, Point(1)),
        (JSON(Point(1)), PointStruct, PointStruct(1)),
        (MsgPack({"x": 1}), None, {"x": 1}),
        (MsgPack({"x": 1}), Point, Point(1)),
        (Proto(Envelope(id="i")), Envelope, Envelope(id="i")),
        (Data("nil"), None, None),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_data_when_decoded_gives_the_value(data: Data, into: Any, value: Any) -> None:
    for kind in (data, received(data.type, data.encode())):
        assert kind.decode(into) == value
        assert kind.decode(into=into) == value


def test_data_when_made_by_the_user_decodes_a_value_of_its_own() -> None:
    value = {"a": [1]}
    assert JSON(value).decode()["a"] is not value["a"]


def test_data_when_an_event_has_none_is_nil() -> None:
    for event in (Event(), Event(data=None), decode_event(b"")):
        assert (event.data.type, event.data.encode(), event.data.decode()) == ("nil", b"", None)


@pytest.mark.parametrize(
    ("encoding", "payload", "into"),
    [
        ("json", b"{", None),
        ("json", b'{"x":"a"}', Point),
        ("string", b"\xff", None),
        ("msgpack", b"\xc1", None),
        ("msgpack", b"\x91\x01", PointStruct),
        ("proto", b"\xff", Envelope),
        ("nil", b"x", None),
    ],
)
@pytest.mark.parametrize("event_id", ["i1", "é", ""])
def test_data_when_received_bytes_do_not_decode_names_encoding_and_event(
    encoding: str, payload: bytes, into: Any, event_id: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        received(encoding, payload, event_id).decode(into)
    assert (caught.value.encoding, caught.value.event_id) == (encoding, event_id)


def test_data_when_received_under_an_unknown_encoding_names_it_and_the_event() -> None:
    with pytest.raises(UnknownEncoding) as caught:
        received("data-test-nobody", b"x").decode()
    assert (caught.value.encoding, caught.value.event_id) == ("data-test-nobody", "i1")


def test_data_when_proto_is_decoded_without_a_message_class_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        received("proto", b"").decode()
    assert caught.value.argument == "into"


def test_data_when_its_event_is_gone_still_decodes() -> None:
    data = received("json", b'{"x":1}')
    assert data.decode(Point) == Point(1)


# --- values ----------------------------------------------------------------------------------------------------------


def test_data_when_type_and_bytes_are_equal_is_equal() -> None:
    assert JSON({"x": 1}) == JSON(Point(1)) == received("json", b'{"x":1}')
    assert hash(JSON({"x": 1})) == hash(received("json", b'{"x":1}'))


@pytest.mark.parametrize("other", [JSON(2), Bytes(b"1"), 1, None, b"1"])
def test_data_when_type_or_bytes_differ_is_not_equal(other: Any) -> None:
    assert JSON(1) != other


@pytest.mark.parametrize("data", [JSON({"x": 1}), Data("nil"), received("json", b'{"x":1}'), received("é", b"x")])
def test_data_when_pickled_or_copied_is_equal(data: Data) -> None:
    for again in (pickle.loads(pickle.dumps(data)), copy.copy(data), copy.deepcopy(data)):
        assert again == data
        assert (again.type, again.encode()) == (data.type, data.encode())


@pytest.mark.parametrize("name", ["type", "other", "_value"])
def test_data_when_an_attribute_is_set_refuses(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(JSON(1), name, "x")


def test_data_when_shown_tells_its_type_and_size() -> None:
    assert repr(JSON("SECRET")) == "<Data json>"
    assert repr(received("json", b'"SECRET"')) == "<Data json 8 bytes>"


# --- bytes that are encoded already ----------------------------------------------------------------------------------

VALUES = [JSON({"x": 1}), Bytes(b"\0"), String("é"), MsgPack([1]), Proto(reference.Envelope(id="i")), Data("nil")]


@pytest.mark.parametrize("data", VALUES, ids=lambda data: data.type)
def test_data_when_made_from_encoded_bytes_is_that_of_the_value(data: Data) -> None:
    again = Data.from_encoded(data.type, data.encode())
    assert again == data
    assert hash(again) == hash(data)
    assert (again.type, again.encode()) == (data.type, data.encode())
    for copied in (pickle.loads(pickle.dumps(again)), copy.copy(again), copy.deepcopy(again)):
        assert copied == again
    if data.type == "proto":
        assert again.decode(Envelope) == Envelope(id="i")
    else:
        assert again.decode() == data.decode()


def test_data_when_made_from_encoded_bytes_is_published_as_they_are() -> None:
    sent = encode_event(Event(data=Data.from_encoded("unknown-é", b"\0x")), "i1", "c", 5)
    data = decode_event(sent).data
    assert (data.type, data.encode()) == ("unknown-é", b"\0x")
    assert repr(Data.from_encoded("json", b'"SECRET"')) == "<Data json 8 bytes>"


def test_data_when_made_from_encoded_bytes_keeps_them() -> None:
    data = b"x" * 100
    assert Data.from_encoded("bytes", data).encode() is data
    changing = bytearray(b"[1]")
    for buffer in (changing, memoryview(changing)):
        made = Data.from_encoded("json", buffer)
        changing[1:2] = b"2"
        assert made.decode() == [1]
        changing[1:2] = b"1"
    assert type(Data.from_encoded("bytes", BytesSubclass(b"x")).encode()) is bytes


def test_data_when_made_from_encoded_bytes_that_are_wrong_fails_at_decode() -> None:
    with pytest.raises(DecodeError, match="cannot decode json") as caught:
        Data.from_encoded("json", b"[1").decode()
    assert caught.value.event_id == ""
    with pytest.raises(UnknownEncoding, match="nobody"):
        Data.from_encoded("nobody", b"").decode()


@pytest.mark.parametrize(("encoding", "payload"), [("", b""), (5, b""), (None, b""), ("json", "text"), ("json", None)])
def test_data_when_made_from_no_encoded_bytes_is_refused(encoding: Any, payload: Any) -> None:
    with pytest.raises(ConfigError, match=r"^(type must be the name of an encoding|data must be bytes)"):
        Data.from_encoded(encoding, payload)


def test_data_when_replaced_by_encoded_bytes_names_the_event_that_does_not_decode() -> None:
    wrong = Data.from_encoded("json", b"[1")
    event = Event(id="i1").replace(data=wrong)
    other = event.replace(id="i2", data=wrong)
    for each in (event, other, event.replace(type="t"), pickle.loads(pickle.dumps(event))):
        with pytest.raises(DecodeError) as caught:
            each.data.decode()
        assert caught.value.event_id == each.id
    assert Event().replace(data=wrong).data is wrong
    value = JSON([1])
    assert event.replace(data=value).data is value


# --- shared texts ----------------------------------------------------------------------------------------------------

SHARED = ["type", "schema", "client", "aggregate"]


def text_of(name: str, text: str) -> str:
    return getattr(decode_event(bytes_field(reference.NUMBERS[name], text.encode())), name)


@pytest.mark.parametrize("name", SHARED)
def test_text_when_received_again_is_the_same_object(name: str) -> None:
    assert text_of(name, "a-text-of-some-length") is text_of(name, "a-text-of-some-length")


@pytest.mark.parametrize("name", reference.TEXTS)
@pytest.mark.parametrize("size", [*range(1, 20), 63, 64, 65, 200])
def test_text_when_only_its_middle_differs_is_right(name: str, size: int) -> None:
    for i in range(size):
        for byte in "\0ab\x7f":
            text = "x" * i + byte + "x" * (size - i - 1)
            assert text_of(name, text) == text


@pytest.mark.parametrize("name", reference.TEXTS)
@given(text=reference.texts)
@settings(deadline=None)
def test_text_when_it_is_any_text_is_right(name: str, text: str) -> None:
    for _ in range(2):
        assert text_of(name, text) == text


@given(
    st.lists(
        st.tuples(st.sampled_from(reference.TEXTS), st.sampled_from(["é", "e", "", "日本", "日" * 30])), max_size=8
    )
)
@settings(deadline=None)
def test_text_when_ascii_and_other_forms_alternate_is_right(fields: list[tuple[str, str]]) -> None:
    event = decode_event(b"".join(bytes_field(reference.NUMBERS[name], text.encode()) for name, text in fields))
    for name, text in dict(fields).items():
        assert getattr(event, name) == text


def test_text_when_many_types_pass_memory_does_not_grow() -> None:
    def read(start: int) -> int:
        for i in range(start, start + 100_000):
            assert text_of("type", f"type-{i}") == f"type-{i}"
        return sys.getallocatedblocks()

    before = read(0)
    assert read(100_000) - before < 500
