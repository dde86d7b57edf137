"""All errors of eda. Each carries its data as attributes, and its text is made from them.

EdaError
├── ConfigError (ValueError)
├── ConnectError
├── Timeout (TimeoutError)
├── PublishFailed
├── CodecError (ValueError)
│   ├── EncodeError
│   ├── DecodeError
│   ├── UnknownEncoding
│   └── UnknownType
├── StreamNotFound
├── ConsumerDeleted
├── NotSupported
├── ServerError
├── VersionConflict, HistoryIncomplete, AggregateForgotten (in store_errors)
├── PositionInvalid, NotApplied, TransactionEnded (in projection_errors)
└── Closed
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from typing import Any

from eda import server_codes

__all__ = [
    "Closed",
    "CodecError",
    "ConfigError",
    "ConnectError",
    "ConsumerDeleted",
    "DecodeError",
    "EdaError",
    "EncodeError",
    "NotSupported",
    "PublishFailed",
    "ServerError",
    "StreamNotFound",
    "Timeout",
    "UnknownEncoding",
    "UnknownType",
]

MAX_TEXT = 1000  # characters of a text from the network

# The user and password of a URL: the text up to the last @, because a password may contain an @. This may hide a host,
# but never shows a password. Text that begins with a slash is a path.
_USERINFO = re.compile(r"(?<=://)[^\s/]\S*@")

# The refusals after which the same request may succeed later. All of eda uses this list.
# 408, 429, 503: the server is slow or overloaded, has no leader or no room for now, or nobody responds.
_TRANSIENT_CODES = frozenset({408, 429, 503})
_TRANSIENT_ERR_CODES = frozenset(
    {
        server_codes.CLUSTER_INCOMPLETE,
        server_codes.CLUSTER_NOT_ASSIGNED,
        server_codes.CLUSTER_NOT_AVAILABLE,
        server_codes.CLUSTER_NOT_LEADER,
        server_codes.INSUFFICIENT_RESOURCES,
        server_codes.MAX_CONSUMERS_REACHED,
        server_codes.RAFT_FAILED,
        server_codes.PEER_REMAP_FAILED,
        server_codes.STORE_FAILED,
        server_codes.CONSUMER_STORE_FAILED,
        server_codes.STREAM_OFFLINE,
        server_codes.CONSUMER_OFFLINE,
        server_codes.STREAM_MOVING,
        server_codes.DUPLICATE_UNDER_WAY,
        server_codes.LAST_SEQUENCE_UNKNOWN,
        server_codes.STREAM_QUEUE_FULL,
        server_codes.CLUSTER_MEMBERS_CHANGING,
        server_codes.ATOMIC_BATCHES_EXCEEDED,
        server_codes.FAST_BATCHES_EXCEEDED,
        server_codes.STREAM_SCALING,
    }
)
# These refusals have one of the codes above, but are permanent.
_FINAL_ERR_CODES = frozenset(
    {
        server_codes.CLUSTER_REQUIRED,
        server_codes.CLUSTER_FEATURE_UNSUPPORTED,
        server_codes.STREAM_SEQUENCE_MISMATCH,
    }
)
# STORE_FAILED is permanent if its text begins like this: the stream is full, or the message is too large for it.
_FINAL_STORE_FAILURES = ("maximum ", "message too large")


def is_transient(code: int, err_code: int, description: str = "") -> bool:
    """Return whether a request that was refused with these codes may succeed later without any change."""
    if err_code in _FINAL_ERR_CODES or (
        err_code == server_codes.STORE_FAILED and description.startswith(_FINAL_STORE_FAILURES)
    ):
        return False
    return code in _TRANSIENT_CODES or err_code in _TRANSIENT_ERR_CODES


class EdaError(Exception):
    """The base of all errors that eda raises on purpose.

    `retryable` says whether the same call may succeed later although the caller changes nothing.
    """

    retryable: bool = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy(), picklable(self.__cause__))


def _rebuild(
    cls: type[EdaError], args: tuple[Any, ...], state: dict[str, Any], cause: BaseException | None
) -> EdaError:
    """Return an unpickled error. __init__ is not called, because each subclass has other arguments."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    if cause is not None:  # setting __cause__, even to None, also suppresses the context
        error.__cause__ = cause
    return error


def picklable(cause: BaseException | None) -> BaseException | None:
    """Return the cause, or an Exception with its text if it can't be pickled and unpickled."""
    if cause is None or isinstance(cause, EdaError):
        return cause
    try:
        pickle.loads(pickle.dumps(cause))
    except Exception:
        return Exception(f"{type(cause).__name__}: {cause}")
    return cause


class ConfigError(EdaError, ValueError):
    """An argument or option that can't work. Nothing was sent. `argument` is its name, or None."""

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__()
        self.message = message
        self.argument = argument

    def __str__(self) -> str:
        return self.message


class ConnectError(EdaError):
    """No server could be reached, or the server refused the connection.

    `address` is the server's address, without credentials; `reason` says why. `retryable` is False if the server or the
    client refused the credentials, a certificate or a connection without TLS.
    """

    def __init__(self, address: str, reason: str, *, retryable: bool = True) -> None:
        super().__init__()
        self.address: str = _USERINFO.sub("", address)
        self.reason: str = _USERINFO.sub("", reason)
        self.retryable = retryable

    def __str__(self) -> str:
        return f"cannot connect to {self.address.rstrip(':')}: {self.reason}"


class Timeout(EdaError, TimeoutError):
    """An operation that did not end within `timeout_s` seconds. `event_id` is the id of its event, if it has one."""

    retryable = True

    def __init__(self, operation: str, timeout_s: float, *, event_id: str = "") -> None:
        super().__init__()
        self.operation = operation
        self.timeout_s = timeout_s
        self.event_id = event_id

    def __str__(self) -> str:
        return f"{self.operation}{_of_event(self.event_id)} took longer than {self.timeout_s:g} s"


class PublishFailed(EdaError):
    """Events that could not be published. `failed` is a list of (event, error)."""

    def __init__(self, failed: Sequence[tuple[Any, BaseException]]) -> None:
        super().__init__()
        self.failed: list[tuple[Any, BaseException]] = list(failed)

    def __str__(self) -> str:
        count = len(self.failed)
        first = f"; first: {self.failed[0][1]}" if self.failed else ""
        return f"{count} event{'' if count == 1 else 's'} could not be published{first}"


class CodecError(EdaError, ValueError):
    """The base of the errors of encoding and decoding.

    `encoding` is the name of the encoding. `event_id` is the event's id, or "". A caller may set both later.
    """

    def __init__(self, encoding: str, *, event_id: str = "") -> None:
        super().__init__()
        self.encoding = encoding
        self.event_id = event_id

    def __str__(self) -> str:
        return f"encoding {self.encoding!r} failed{_of_event(self.event_id)}"


class EncodeError(CodecError):
    """A value that could not be encoded. `value_type` is the name of its type, `reason` says why."""

    def __init__(self, encoding: str, value_type: str, reason: str, *, event_id: str = "") -> None:
        super().__init__(encoding, event_id=event_id)
        self.value_type = value_type
        self.reason = reason

    def __str__(self) -> str:
        encoding, reason = printable(self.encoding), printable(self.reason)
        return f"cannot encode {self.value_type} as {encoding}{_of_event(self.event_id)}: {reason}"


class DecodeError(CodecError):
    """Bytes that could not be decoded.

    `reason` says why. `offset` is the byte at which decoding failed, None if it is not known. `encoding` is "envelope"
    if the event's envelope itself can't be read.
    """

    def __init__(self, encoding: str, reason: str, *, event_id: str = "", offset: int | None = None) -> None:
        super().__init__(encoding, event_id=event_id)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        # The encoding and the id come from the network, and the reason may quote the bytes.
        encoding, reason = printable(self.encoding), printable(self.reason)
        return f"cannot decode {encoding}{_of_event(self.event_id)}{where}: {reason}"


class UnknownEncoding(CodecError):
    """An encoding that is neither built in nor registered with `eda.register_encoding`.

    `value_type` is the name of the type of the value that was to be encoded; "" if bytes were to be decoded.
    """

    def __init__(self, encoding: str, *, event_id: str = "", value_type: str = "") -> None:
        super().__init__(encoding, event_id=event_id)
        self.value_type = value_type

    def __str__(self) -> str:
        value = f" for a value of type {self.value_type}" if self.value_type else ""
        return f"unknown encoding {self.encoding!r}{_of_event(self.event_id)}{value}; see eda.register_encoding"


class UnknownType(CodecError):
    """An event type that no payload class declares with `eda.payload`, or for which a router has no handler.

    `type` is the type. `router` shows the router, or is "" if no class declares the type.
    """

    def __init__(self, type: str, *, encoding: str = "", event_id: str = "", router: str = "") -> None:
        super().__init__(encoding, event_id=event_id)
        self.type = type
        self.router = router

    def __str__(self) -> str:
        type = repr(printable(self.type)) if self.type else "'' (the event has no type)"
        if self.router:
            return f"{self.router} has no handler for the type {type}{_of_event(self.event_id)}"
        return f"no payload class is declared for the type {type}{_of_event(self.event_id)}; see eda.payload"


class StreamNotFound(EdaError):
    """A stream that does not exist."""

    def __init__(self, stream: str) -> None:
        super().__init__()
        self.stream = stream

    def __str__(self) -> str:
        return f"stream {self.stream!r} does not exist"


class ConsumerDeleted(EdaError):
    """A subscription that ended because its consumer or cursor was deleted or reset. `reason` says more."""

    def __init__(self, stream: str, consumer: str, reason: str = "") -> None:
        super().__init__()
        self.stream = stream
        self.consumer = consumer
        self.reason = reason

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"consumer {self.consumer!r} of stream {self.stream!r} was deleted{why}"


class NotSupported(EdaError):
    """A feature that is missing. `needs`: what is required ("nats-server 2.12"). `server`: the server found."""

    def __init__(self, feature: str, *, needs: str = "", server: str = "") -> None:
        super().__init__()
        self.feature = feature
        self.needs = needs
        self.server = server

    def __str__(self) -> str:
        needs = f": needs {self.needs}" if self.needs else ""
        found = f" (found {self.server})" if self.server else ""
        return f"{self.feature} is not supported{needs}{found}"


class ServerError(EdaError):
    """An error with which JetStream answered. `code` is an HTTP status, `err_code` the number of JetStream's error.

    `may_be_stored`: an earlier try of the refused publish got no answer, so the stream may have stored the event.
    """

    may_be_stored: bool = False

    def __init__(self, code: int, err_code: int, description: str, *, operation: str = "") -> None:
        super().__init__()
        self.code = code
        self.err_code = err_code
        self.description: str = printable(description)
        self.operation = operation
        self.retryable: bool = is_transient(code, err_code, description)

    def __str__(self) -> str:
        operation = f"{self.operation}: " if self.operation else ""
        return f"{operation}{self.description} (code {self.code}, error code {self.err_code})"


class Closed(EdaError):
    """A call of something that is closed: `what` names it (the connection, a publisher …)."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} is closed"


def printable(text: str) -> str:
    """Return a text from the network as it may be logged: without control characters, at most 1,000 characters."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: MAX_TEXT + 1])
    return shown if len(shown) <= MAX_TEXT else f"{shown[:MAX_TEXT]}…"


def error_text(error: BaseException | None) -> str:
    """Return the error's type and text in one line."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # a user's class may fail here
        return name
    return printable(f"{name}: {text}" if text else name)


def _of_event(event_id: str) -> str:
    return f" of event {printable(event_id)}" if event_id else ""
