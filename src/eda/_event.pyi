from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self, final

from eda._data import Data
from eda.receipt import Receipt

__all__ = ["Event"]

@final
class Event:
    """A domain event. It never changes; `replace()` returns a changed copy.

    `data` is Data, or an instance of a class that `eda.payload` declares; then type, schema and encoding are those of
    the class, and a `type` or `schema` that differs is refused, here and in `replace()`.
    `time` is an aware datetime, or an int of nanoseconds since 1970. It can't be 0, which is 1970-01-01 00:00:00 UTC:
    in an envelope, 0 means that no time is set. `cause` is the id of another event, or the Receipt of that event. If
    `id`, `time` or `client` is empty, the publish fills it into the envelope; this object stays as it is.
    """

    def __init__(
        self,
        *,
        type: str = "",
        data: Any = None,
        id: str = "",
        time: datetime | int | None = None,
        schema: str = "",
        cause: str | Receipt = "",
        client: str = "",
        aggregate: str = "",
        meta: Mapping[str, str] | None = None,
        stream: str = "",
    ) -> None:
        """Make an event of its fields. Raises ConfigError, naming the field, for a wrong value."""
    @property
    def id(self) -> str:
        """The event's id; empty if none was given and the event was not received."""
    @property
    def type(self) -> str:
        """The event's type."""
    @property
    def schema(self) -> str:
        """An identifier of the data's schema."""
    @property
    def cause(self) -> str:
        """The id of the event that caused this one."""
    @property
    def client(self) -> str:
        """The name of the client that published the event."""
    @property
    def aggregate(self) -> str:
        """The aggregate that the event belongs to."""
    @property
    def data(self) -> Data:
        """The event's Data; of type `nil` if it has none."""
    @property
    def meta(self) -> dict[str, str]:
        """A copy of the event's metadata."""
    @property
    def stream(self) -> str:
        """The stream from which the event was received, or with which it was made; else empty."""
    @property
    def time(self) -> datetime | None:
        """When the event was published, as a UTC datetime in whole microseconds; None if not set."""
    @property
    def time_ns(self) -> int:
        """When the event was published, in nanoseconds since 1970; 0 if not set."""
    @property
    def ack_time(self) -> datetime | None:
        """When the stream stored the event, as a UTC datetime in whole microseconds; None if not set."""
    @property
    def ack_time_ns(self) -> int:
        """When the stream stored the event, in nanoseconds since 1970; 0 if not set."""
    @property
    def sequence(self) -> int:
        """The event's sequence in its stream; 0 if the event was not received."""
    @property
    def index(self) -> int:
        """The event's place in its pack, from 0; 0 if the event was not in a pack."""
    @property
    def attempt(self) -> int:
        """The number of this attempt: 1 for the first delivery; 0 if the event was not received."""
    @property
    def version(self) -> int:
        """The event's version in its aggregate, which only an event store sets; 0 if not set."""
    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of another program's message, by name, read-only; empty for an event that eda published.

        The headers of NATS (`Nats-…`) and of eda (`Eda-…`) are left out. If a name is repeated, the first value
        counts. `replace()` does not copy the headers.
        """
    @property
    def subject(self) -> str:
        """The subject under which a received event is stored; else empty. `replace()` does not copy it."""
    def is_type(self, *types: str) -> bool:
        """Return whether the event's type is one of `types`."""
    def replace(
        self,
        *,
        type: str = ...,
        data: Any = ...,
        id: str = ...,
        time: datetime | int | None = ...,
        schema: str = ...,
        cause: str | Receipt = ...,
        client: str = ...,
        aggregate: str = ...,
        meta: Mapping[str, str] | None = ...,
        stream: str = ...,
    ) -> Event:
        """Return a copy with other values of these parameters of Event. Raises ConfigError for wrong ones."""
    def payload(self) -> Any:
        """Return the payload as a new instance of the class that is declared for the event's type with `eda.payload`.

        Data of an older schema is brought to the schema of the class by upcasters first. Each call decodes anew. Raises
        UnknownType if no class declares the type, UnknownEncoding, and DecodeError (with `event_id`, chained from its
        cause) if the data does not fit the class.
        """
    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict ready for JSON.

        `data` is the decoded value for the encodings `json`, `string`, `msgpack` and `nil`, and the encoded bytes for
        all others. Times are texts as in RFC 3339, with nanoseconds; None if not set. `meta` is left out if empty.
        """
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, memo: Any) -> Self: ...
