"""Event-driven architectures on NATS JetStream: domain events into durable, ordered streams, and out to handlers."""

from eda._data import JSON, Bytes, Data, MsgPack, Proto, String
from eda._event import Event
from eda.conn import Conn
from eda.dial import connect
from eda.encodings import register_encoding
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
)
from eda.handlers import PartialFailure, Reject, threaded
from eda.lag import SubscriptionInfo
from eda.options import Retry, StreamOptions, SubscriptionOptions
from eda.publisher import Publisher
from eda.receipt import Receipt
from eda.running import run
from eda.server import EmbeddedServer
from eda.stats import PublisherStats, SubscriptionStats
from eda.streams import StreamInfo
from eda.subscription import Subscription

__all__ = [
    "JSON",
    "Bytes",
    "Closed",
    "CodecError",
    "ConfigError",
    "Conn",
    "ConnectError",
    "ConsumerDeleted",
    "Data",
    "DecodeError",
    "EdaError",
    "EmbeddedServer",
    "EncodeError",
    "Event",
    "MsgPack",
    "NotSupported",
    "PartialFailure",
    "Proto",
    "PublishFailed",
    "Publisher",
    "PublisherStats",
    "Receipt",
    "Reject",
    "Retry",
    "ServerError",
    "StreamInfo",
    "StreamNotFound",
    "StreamOptions",
    "String",
    "Subscription",
    "SubscriptionInfo",
    "SubscriptionOptions",
    "SubscriptionStats",
    "Timeout",
    "UnknownEncoding",
    "connect",
    "register_encoding",
    "run",
    "threaded",
]
