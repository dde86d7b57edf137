"""event.payload(): the one way from an event to its payload, and its errors."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import eda
from eda._codec import decode_event, encode_event
from eda.errors import CodecError, DecodeError, UnknownEncoding, UnknownType


@dataclass
class Paid:
    amount: int
    currency: str = "EUR"
    notes: list[str] = field(default_factory=list)


class Model(pydantic.BaseModel):
    amount: int


def received(type: str = "paid", schema: str = "", data: Any = None, id: str = "i1") -> eda.Event:
    return decode_event(encode_event(eda.Event(type=type, schema=schema, data=data), id))


def failure(event: eda.Event, error: type[CodecError] = DecodeError) -> Any:
    """Return the error of an event whose payload can't be decoded, after the checks that hold for all of them."""
    with pytest.raises(error) as caught:
        event.payload()
    assert caught.value.event_id == event.id
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert __name__ not in str(caught.value)  # the text may become a header of a dead letter
    return caught.value


@pytest.fixture
def cbor(declarations: None) -> None:
    eda.register_encoding("cbor", msgspec.json.encode, msgspec.json.decode)


def test_payload_when_decoded_is_a_new_object_each_time() -> None:
    eda.payload("paid")(Paid)
    event = received(data=eda.JSON({"amount": 1}))
    first, second = event.payload(), event.payload()
    assert first == second == Paid(1)
    first.notes.append("changed")
    assert event.payload() == Paid(1)
    assert event.data.decode() == {"amount": 1}
    assert event.payload() == Paid(1)


def test_payload_when_the_type_is_an_alias_is_of_its_class() -> None:
    eda.payload("paid", schema="1", aliases=["payed"])(Paid)
    assert received("payed", "1", eda.JSON({"amount": 1})).payload() == Paid(1)


@pytest.mark.parametrize("type", ["sent", "", "päid", "x" * 5000, "a\nb"])
def test_type_when_no_class_declares_it_is_unknown(type: str) -> None:
    eda.payload("paid")(Paid)
    error = failure(decode_event(encode_event(eda.Event(type=type, data=eda.JSON({})), "i1")), UnknownType)
    assert error.type == type
    assert (error.encoding, error.retryable) == ("json", False)
    assert len(str(error)) < 1200
    assert "\n" not in str(error)
    assert "no payload class is declared for the type" in str(error)


@pytest.mark.parametrize(
    "data",
    [eda.JSON({"amount": "x"}), eda.JSON([1]), eda.JSON(None), eda.MsgPack({"amount": "x"})],
)
def test_data_when_it_does_not_fit_the_class_is_an_error_that_names_all(data: Any) -> None:
    eda.payload("paid", schema="2")(Paid)
    event = received("paid", "2", data)
    error = failure(event)
    assert error.encoding == data.type
    assert "type 'paid' (schema '2') into Paid: ValidationError: Expected" in error.reason
    assert isinstance(error.__cause__, msgspec.ValidationError)


def test_field_when_it_does_not_fit_is_named() -> None:
    eda.payload("paid")(Paid)
    eda.payload("model")(Model)
    assert "$.amount" in str(failure(received(data=eda.JSON({"amount": "x"}))))
    assert "(no schema)" in str(failure(received(data=eda.JSON({"amount": "x"}))))
    error = failure(received("model", data=eda.JSON({"amount": "x"})))
    assert "amount" in error.reason
    assert isinstance(error.__cause__, pydantic.ValidationError)


@pytest.mark.parametrize("data", [None, eda.Bytes(b'{"amount":1}'), eda.String("x"), eda.JSON({})], ids=str)
def test_data_when_it_is_no_object_is_an_error(data: Any) -> None:
    eda.payload("paid")(Paid)
    failure(received(data=data))


def test_bytes_when_broken_are_an_error() -> None:
    eda.payload("paid")(Paid)
    eda.payload("text")(StringValue)
    for type, encoding in (("paid", "json"), ("paid", "msgpack"), ("text", "proto")):
        event = received(type, data=eda.Data.from_encoded(encoding, b"\xff\xff"))
        assert failure(event).__cause__ is not None


def test_encoding_when_unknown_is_an_error_with_the_id() -> None:
    eda.payload("paid")(Paid)
    error = failure(received(data=eda.Data.from_encoded("avro", b"x")), UnknownEncoding)
    assert error.encoding == "avro"


@pytest.mark.usefixtures("cbor")
@pytest.mark.parametrize("own", ["json", "msgpack", "cbor"])
@pytest.mark.parametrize("other", ["json", "msgpack", "cbor"])
@pytest.mark.parametrize("cls", [Paid, Model])
def test_encoding_when_another_than_that_of_the_class_is_read_all_the_same(own: str, other: str, cls: Any) -> None:
    eda.payload("paid", schema="1", encoding=own)(cls)
    event = received("paid", "1", eda.Data(other, {"amount": 5}))
    assert event.payload() == cls(amount=5)
    error = failure(received("paid", "1", eda.Data(other, {"amount": "x"})))
    assert error.encoding == other


def test_encoding_when_proto_needs_a_protobuf_class() -> None:
    eda.payload("paid")(Paid)
    eda.payload("text")(StringValue)
    assert "only a protobuf class can read" in str(failure(received(data=eda.Proto(StringValue(value="x")))))
    assert "a protobuf class can't read" in str(failure(received("text", data=eda.JSON({"value": "x"}))))
    assert received("text", "any", eda.Proto(StringValue(value="x"))).payload() == StringValue(value="x")


def test_message_when_its_schema_is_another_is_an_error() -> None:
    eda.payload("text", schema="2")(StringValue)
    error = failure(received("text", "1", eda.Proto(StringValue(value="x"))))
    assert str(error).endswith("reads only schema '2', and a protobuf message can have no upcasters")


# --- upcasters -----------------------------------------------------------------------------------------------------


def amount_of_sum(data: dict[str, Any]) -> dict[str, Any]:
    data["amount"] = data.pop("sum")
    return data


@pytest.fixture
def chain() -> None:
    eda.payload("paid", schema="3", aliases=["payed"])(Paid)
    eda.upcast("payed", "1", "2")(amount_of_sum)
    eda.upcast("paid", "2", "3")(lambda data: {**data, "currency": "CHF"})


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize("type", ["paid", "payed"])
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_data_when_of_an_old_schema_goes_through_the_chain(type: str, encoding: str) -> None:
    event = received(type, "1", eda.Data(encoding, {"sum": 3}))
    assert event.payload() == Paid(3, "CHF")
    assert event.payload() == Paid(3, "CHF")  # the change in place has spoilt nothing
    assert event.data.decode() == {"sum": 3}
    assert event.payload() == Paid(3, "CHF")
    assert (event.schema, event.type) == ("1", type)
    assert received(type, "2", eda.Data(encoding, {"amount": 3})).payload() == Paid(3, "CHF")
    assert received(type, "3", eda.Data(encoding, {"amount": 3})).payload() == Paid(3)
    made = eda.Event(type=type, schema="1", data=eda.Data(encoding, {"sum": 3}))
    assert made.payload() == made.payload() == Paid(3, "CHF")


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize("schema", ["", "0", "4", "x" * 2000, "ü\n"])
def test_schema_when_no_chain_leads_from_it_is_an_error_that_says_what_can_be_read(schema: str) -> None:
    error = failure(received("paid", schema, eda.JSON({"amount": 1})))
    assert "the class reads only schema '3', '1', '2'. If" in error.reason
    assert "declare an upcaster from it (eda.upcast)" in error.reason
    assert "\n" not in str(error)


class Stop(Exception):
    pass


def test_upcaster_when_it_raises_is_named_and_its_exception_is_the_cause() -> None:
    eda.payload("paid", schema="3")(Paid)
    cause: list[Exception] = [Stop("no")]

    @eda.upcast("paid", "1", "2")
    def first(data: Any) -> Any:
        return data

    @eda.upcast("paid", "2", "3")
    def second(data: Any) -> Any:
        raise cause[0]

    for cause[0] in (Stop("no"), OSError("registry"), KeyError("x"), DecodeError("json", "inner", event_id="other")):
        error = failure(received("paid", "1", eda.JSON({"amount": 1})))
        assert f"the upcaster from schema '2' to '3' raised {type(cause[0]).__name__}" in error.reason
        assert error.__cause__ is cause[0]
        assert "type 'paid' (schema '1') into Paid" in error.reason


async def wait() -> None: ...


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (lambda: None, "returned None; it must return the new data"),
        (wait, "returned coroutine; it must return the new data"),
        (lambda: (x for x in ()), "returned generator; it must return the new data"),
    ],
)
def test_upcaster_when_it_returns_no_data_is_an_error(result: Any, shown: str) -> None:
    eda.payload("paid", schema="2")(Paid)
    eda.upcast("paid", "1", "2")(lambda data: result())
    assert shown in str(failure(received("paid", "1", eda.JSON({"amount": 1}))))


def test_upcaster_when_its_result_does_not_fit_is_an_error() -> None:
    eda.payload("paid", schema="2")(Paid)
    eda.upcast("paid", "1", "2")(lambda data: {"amount": "x"})
    assert "$.amount" in str(failure(received("paid", "1", eda.JSON({"amount": 1}))))


def test_upcaster_when_it_returns_an_instance_of_the_class_is_taken() -> None:
    eda.payload("paid", schema="2")(Paid)
    eda.upcast("paid", "1", "2")(lambda data: Paid(data))
    assert received("paid", "1", eda.JSON(7)).payload() == Paid(7)


@pytest.mark.usefixtures("cbor")
def test_decoder_when_it_raises_keeps_its_cause() -> None:
    eda.payload("paid", encoding="cbor")(Paid)

    def down(data: bytes) -> Any:
        raise ConnectionError("the registry is down")

    eda.register_encoding("cbor", msgspec.json.encode, down)
    error = failure(received(data=eda.Data.from_encoded("cbor", b"x")))
    assert isinstance(error.__cause__, OSError)


def test_payload_when_many_threads_decode_is_right() -> None:
    eda.payload("paid", schema="2")(Paid)
    eda.upcast("paid", "1", "2")(amount_of_sum)
    wrong: list[Any] = []

    def work(n: int) -> None:
        old, new = received("paid", "1", eda.JSON({"sum": n})), received("paid", "2", eda.JSON({"amount": n}))
        for _ in range(300):
            if (old.payload(), new.payload()) != (Paid(n), Paid(n)):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_upcasters_when_another_thread_declares_more_are_found() -> None:
    eda.payload("paid", schema="new")(Paid)
    old = [received("paid", f"old-{n}", eda.JSON({"amount": n})) for n in range(100)]
    for event in old:
        eda.upcast("paid", event.schema, "new")(lambda plain: plain)
    errors: list[Exception] = []
    is_done = threading.Event()

    def work() -> None:
        while not errors and not is_done.is_set():
            try:
                assert [event.payload().amount for event in old] == list(range(100))
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=work)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        until = time.monotonic() + 1
        n = 100
        while n < 2000 and not errors and time.monotonic() < until:
            eda.upcast("paid", f"old-{n}", "new")(lambda plain: plain)
            n += 1
    finally:
        is_done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert errors == []


@pytest.mark.parametrize("is_data_read", [False, True])
def test_encoding_when_the_envelope_names_none_is_bytes(is_data_read: bool) -> None:
    eda.payload("paid")(Paid)
    envelope = encode_event(eda.Event(type="paid", data=eda.Bytes(b"xx")), "i1").replace(b"\x42\x05bytes", b"")
    event = decode_event(envelope)
    if is_data_read:
        assert event.data.type == "bytes"
    assert failure(event).encoding == "bytes"


class Textless(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_decoder_when_its_exception_has_no_text_is_an_error_all_the_same() -> None:
    eda.payload("paid", schema="2")(Paid)

    def upcast(_: Any) -> Any:
        raise Textless

    eda.upcast("paid", "1", "2")(upcast)
    event = received(schema="1", data=eda.JSON({}))
    with pytest.raises(DecodeError, match="raised Textless: it has no text") as caught:
        event.payload()
    assert caught.value.event_id == "i1"
