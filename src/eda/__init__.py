"""Event-driven architectures on NATS JetStream: domain events into durable, ordered streams, and out to handlers."""

from eda._data import JSON, Bytes, Data, MsgPack, Proto, String
from eda._event import Event
from eda.conn import Conn
from eda.dial import connect
from eda.embedded.server import EmbeddedServer
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
from eda.jetstream.streams import StreamInfo
from eda.options import Retry, StreamOptions, SubscriptionOptions
from eda.publishing.publisher import Publisher
from eda.receipt import Receipt
from eda.running import run
from eda.stats import PublisherStats, SubscriptionStats
from eda.subscribing.lag import SubscriptionInfo
from eda.subscribing.subscription import Subscription

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
