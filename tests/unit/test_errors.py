"""eda.errors: data as attributes, text from data, pickling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from eda import errors, projection_errors, store_errors
from eda.errors import (
    Closed,
    CodecError,
    ConfigError,
    ConnectError,
    ConsumerDeleted,
    DecodeError,
    EdaError,
    EncodeError,
    NotSupported,
    PublishFailed,
    ServerError,
    StreamNotFound,
    Timeout,
    UnknownEncoding,
    UnknownType,
    is_transient,
)
from eda.jetstream.publish_answers import Refused
from eda.projection_errors import NotApplied, PositionInvalid, TransactionEnded
from eda.store_errors import AggregateForgotten, HistoryIncomplete, VersionConflict

SAMPLES: list[tuple[type[EdaError], dict[str, Any]]] = [
    (ConfigError, {"message": "name 'a b' has a space", "argument": "name"}),
    (ConnectError, {"address": "nats://127.0.0.1:4222", "reason": "refused"}),
    (Timeout, {"operation": "publish", "timeout_s": 30.0, "event_id": "e1"}),
    (PublishFailed, {"failed": [("event", StreamNotFound("s"))]}),
    (CodecError, {"encoding": "json", "event_id": "e1"}),
    (EncodeError, {"encoding": "json", "value_type": "socket", "reason": "no", "event_id": "e1"}),
    (DecodeError, {"encoding": "envelope", "reason": "truncated", "event_id": "e1", "offset": 7}),
    (UnknownEncoding, {"encoding": "avro", "event_id": "e1", "value_type": "dict"}),
    (UnknownType, {"type": "order-paid", "event_id": "e1"}),
    (StreamNotFound, {"stream": "s"}),
    (ConsumerDeleted, {"stream": "s", "consumer": "c", "reason": "reset"}),
    (NotSupported, {"feature": "batches", "needs": "2.12", "server": "2.10.25"}),
    (ServerError, {"code": 400, "err_code": 10058, "description": "exists", "operation": "create"}),
    (Closed, {"what": "the connection"}),
    (VersionConflict, {"stream": "s", "aggregate": "a", "expected": 4, "actual": 5, "events": [1]}),
    (HistoryIncomplete, {"stream": "s", "aggregate": "a", "reason": "version 3 is missing"}),
    (AggregateForgotten, {"stream": "s", "aggregate": "a"}),
    (PositionInvalid, {"projection": "p", "version": 1, "stream": "s", "reason": "it was made again"}),
    (NotApplied, {"projection": "p", "version": 1, "stream": "s", "sequence": 7, "reason": "no such row"}),
    (TransactionEnded, {"projection": "p", "version": 1}),
]
every_error = pytest.mark.parametrize(("cls", "data"), SAMPLES, ids=[cls.__name__ for cls, _ in SAMPLES])


class ForeignError(Exception):
    """Pickles, and then fails to unpickle: its __init__ wants two arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class UserError(EdaError):
    """A user's subclass in the usual style, its text in args."""


def test_samples_when_compared_with_all_cover_every_error() -> None:
    named = {*errors.__all__, *store_errors.__all__, *projection_errors.__all__}
    assert {cls.__name__ for cls, _ in SAMPLES} | {"EdaError"} == named


@every_error
def test_error_when_built_by_keywords_carries_its_data(cls: type[EdaError], data: dict[str, Any]) -> None:
    error = cls(**data)
    assert isinstance(error, EdaError)
    assert {name: getattr(error, name) for name in data} == data


@every_error
def test_text_when_written_names_the_data(cls: type[EdaError], data: dict[str, Any]) -> None:
    text = str(cls(**data))
    for name, value in data.items():
        if isinstance(value, str) and name != "argument":
            assert value in text
    assert repr(cls(**data)) == f"{cls.__name__}({text!r})"


@every_error
def test_pickle_when_restored_keeps_text_data_and_cause(cls: type[EdaError], data: dict[str, Any]) -> None:
    error = cls(**data)
    error.__cause__ = KeyError("cause")
    error.add_note("a note")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is cls
        assert str(back) == str(error)
        assert back.args == error.args
        assert back.retryable == error.retryable
        assert repr(back.__cause__) == repr(error.__cause__)
        assert back.__notes__ == ["a note"]


@every_error
def test_copy_when_made_keeps_the_text(cls: type[EdaError], data: dict[str, Any]) -> None:
    assert str(copy.copy(cls(**data))) == str(cls(**data))


def test_pickle_when_the_cause_would_not_unpickle_keeps_its_text() -> None:
    error = Closed("the connection")
    error.__cause__ = ForeignError("half", "open")
    back = pickle.loads(pickle.dumps(error))
    assert str(back.__cause__) == "ForeignError: half open"


def test_pickle_when_without_cause_does_not_suppress_the_context() -> None:
    back = pickle.loads(pickle.dumps(Closed("it")))
    assert back.__cause__ is None
    assert not back.__suppress_context__


def test_pickle_when_a_users_subclass_has_args_keeps_them() -> None:
    back = pickle.loads(pickle.dumps(UserError("a", 2)))
    assert (type(back), back.args) == (UserError, ("a", 2))


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [(ConfigError, ValueError), (CodecError, ValueError), (Timeout, TimeoutError)],
)
def test_error_when_caught_as_builtin_matches(cls: type[EdaError], builtin: type[Exception]) -> None:
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", [EncodeError, DecodeError, UnknownEncoding])
def test_codec_errors_when_caught_together_match(cls: type[EdaError]) -> None:
    assert issubclass(cls, CodecError)


@every_error
def test_retryable_when_asked_tells_what_may_pass(cls: type[EdaError], data: dict[str, Any]) -> None:
    assert cls(**data).retryable is (cls in (ConnectError, Timeout))


def test_connect_error_when_the_server_refused_us_is_not_retryable() -> None:
    error = ConnectError("nats://127.0.0.1:4222", "Authorization Violation", retryable=False)
    assert not error.retryable
    assert not pickle.loads(pickle.dumps(error)).retryable


@pytest.mark.parametrize(
    ("code", "err_code", "description", "passes"),
    [
        (503, 0, "no responders", True),
        (429, 0, "", True),
        (408, 0, "", True),
        (429, 10167, "too many requests", True),
        (400, 10167, "too many requests", True),
        (503, 10008, "JetStream system temporarily unavailable", True),
        (500, 10008, "JetStream system temporarily unavailable", True),
        (500, 10009, "JetStream cluster can not handle request", True),
        (500, 10118, "stream is offline", True),
        (500, 10041, "raft: not leader", True),
        (400, 10026, "maximum consumers limit reached", True),
        (409, 10158, "duplicate message id is in process", True),
        (503, 10163, "expected last sequence per subject temporarily unavailable", True),
        (429, 10210, "atomic publish too many inflight", True),
        (429, 10211, "batch publish too many inflight", True),
        (503, 10077, "no space left on device", True),
        (503, 10077, "maximum messages exceeded", False),
        (503, 10077, "maximum bytes exceeded", False),
        (503, 10077, "message too large", False),
        (503, 10036, "not currently supported in clustered mode", False),
        (503, 10010, "JetStream clustering support required", False),
        (400, 10002, "resource limits exceeded for account", False),
        (400, 10003, "bad request", False),
        (400, 10054, "message size exceeds maximum allowed", False),
        (400, 10058, "stream name already in use", False),
        (404, 10059, "stream not found", False),
        (400, 10071, "wrong last sequence: 7", False),
        (400, 10121, "consumer max ack pending exceeds system limit of 1000", False),
        (403, 0, "no permission", False),
        (500, 0, "an answer that makes no sense", False),
    ],
)
def test_refusal_when_it_may_pass_is_the_same_everywhere(
    code: int, err_code: int, description: str, passes: bool
) -> None:
    assert is_transient(code, err_code, description) is passes
    assert ServerError(code, err_code, description).retryable is passes
    assert Refused(code, err_code, description).is_transient is passes


def test_codec_error_when_the_event_is_learned_later_names_it() -> None:
    error = EncodeError("", "set", "no")
    error.encoding = "json"
    error.event_id = "e9"
    assert str(error) == "cannot encode set as json of event e9: no"


@pytest.mark.parametrize("address", ["nats://me:se@cret@host:1", "nats://secret@host:1"])
def test_connect_error_when_the_address_has_a_password_hides_it(address: str) -> None:
    error = ConnectError(address, f"no route to {address}")
    assert str(error) == "cannot connect to nats://host:1: no route to nats://host:1"
    assert "secret" not in repr(error.__dict__)


def test_connect_error_when_the_address_is_a_path_keeps_it() -> None:
    assert ConnectError("embedded:///home/me@work/data", "full").address == "embedded:///home/me@work/data"


def test_publish_failed_when_several_failed_tells_how_many_and_the_first() -> None:
    error = PublishFailed([("a", Closed("it")), ("b", Closed("that"))])
    assert str(error) == "2 events could not be published; first: it is closed"
    assert str(PublishFailed([])) == "0 events could not be published"
