"""Event-driven architectures on NATS JetStream: domain events into durable, ordered streams, and out to handlers."""

from eda._version import __version__ as __version__

# Type checkers assume that a variable of this name is True, so they see the imports below. Tools that pack a program
# into one executable see them, too. The variable is not imported, because `typing` loads slower than all of this file.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from eda import sql as sql
    from eda import testing as testing
    from eda._data import JSON, Bytes, Data, MsgPack, Proto, String
    from eda._event import Event
    from eda._router import Router
    from eda.conn import Conn
    from eda.connecting import connect
    from eda.dead_letters.dead_letter import DeadLetter
    from eda.dead_letters.letter import NewDeadLetter
    from eda.diagnosis.finding import Finding
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
        UnknownType,
    )
    from eda.handlers import BatchHandler, Handler, PartialFailure, Reject, threaded
    from eda.jetstream.stream_info import StreamInfo
    from eda.jetstream.streams import Streams
    from eda.keywords import EventsBatchKeywords, EventsKeywords, SubscribeBatchKeywords, SubscribeKeywords
    from eda.lifetime import ConnState
    from eda.middleware.base import FlushNext, HandleBatchNext, HandleNext, Middleware, PublishBatch, PublishNext
    from eda.options import Retry, StreamKeywords, StreamOptions, SubscriptionOptions
    from eda.projection_errors import NotApplied, PositionInvalid, TransactionEnded
    from eda.projections.projection import Projection
    from eda.projections.relay import Relay, RelayStats
    from eda.projections.stats import ProjectionStats, StreamProgress
    from eda.projections.view import View
    from eda.publishing.pack import Pack
    from eda.publishing.publisher import Publisher
    from eda.publishing.publisher_options import Mode
    from eda.receipt import Receipt
    from eda.running import run
    from eda.stats import Histogram, PublisherStats, SubscriptionStats
    from eda.store.decider import Decider
    from eda.store.event_store import EventStore, Expected
    from eda.store.results import Appended, Loaded
    from eda.store_errors import AggregateForgotten, HistoryIncomplete, VersionConflict
    from eda.subscribing.behind import Lag, SubscriptionInfo
    from eda.subscribing.details import SubscriptionDetails
    from eda.subscribing.events_iterator import Events
    from eda.subscribing.kept import SubscriptionMove
    from eda.subscribing.subscription import Subscription
    from eda.telemetry.otel import OpenTelemetry
    from eda.telemetry.prometheus import PrometheusCollector, prometheus
    from eda.totals import ConnStats
    from eda.typed.registry import payload
    from eda.typed.upcasters import upcast

__all__ = [
    "JSON",
    "AggregateForgotten",
    "Appended",
    "BatchHandler",
    "Bytes",
    "Closed",
    "CodecError",
    "ConfigError",
    "Conn",
    "ConnState",
    "ConnStats",
    "ConnectError",
    "ConsumerDeleted",
    "Data",
    "DeadLetter",
    "Decider",
    "DecodeError",
    "EdaError",
    "EmbeddedServer",
    "EncodeError",
    "Event",
    "EventStore",
    "Events",
    "EventsBatchKeywords",
    "EventsKeywords",
    "Expected",
    "Finding",
    "FlushNext",
    "HandleBatchNext",
    "HandleNext",
    "Handler",
    "Histogram",
    "HistoryIncomplete",
    "Lag",
    "Loaded",
    "Middleware",
    "Mode",
    "MsgPack",
    "NewDeadLetter",
    "NotApplied",
    "NotSupported",
    "OpenTelemetry",
    "Pack",
    "PartialFailure",
    "PositionInvalid",
    "Projection",
    "ProjectionStats",
    "PrometheusCollector",
    "Proto",
    "PublishBatch",
    "PublishFailed",
    "PublishNext",
    "Publisher",
    "PublisherStats",
    "Receipt",
    "Reject",
    "Relay",
    "RelayStats",
    "Retry",
    "Router",
    "ServerError",
    "StreamInfo",
    "StreamKeywords",
    "StreamNotFound",
    "StreamOptions",
    "StreamProgress",
    "Streams",
    "String",
    "SubscribeBatchKeywords",
    "SubscribeKeywords",
    "Subscription",
    "SubscriptionDetails",
    "SubscriptionInfo",
    "SubscriptionMove",
    "SubscriptionOptions",
    "SubscriptionStats",
    "Timeout",
    "TransactionEnded",
    "UnknownEncoding",
    "UnknownType",
    "VersionConflict",
    "View",
    "connect",
    "payload",
    "prometheus",
    "register_encoding",
    "run",
    "threaded",
    "upcast",
]

# The module that defines each public name. It is imported when one of its names is first used, so that a program that
# needs few of them, such as `eda --help`, starts quickly. A test compares this table with the imports above.
_NAMES_IN = {
    "eda._data": "JSON Bytes Data MsgPack Proto String",
    "eda._event": "Event",
    "eda._router": "Router",
    "eda.conn": "Conn",
    "eda.connecting": "connect",
    "eda.diagnosis.finding": "Finding",
    "eda.dead_letters.dead_letter": "DeadLetter",
    "eda.dead_letters.letter": "NewDeadLetter",
    "eda.embedded.server": "EmbeddedServer",
    "eda.encodings": "register_encoding",
    "eda.errors": "Closed CodecError ConfigError ConnectError ConsumerDeleted DecodeError EdaError EncodeError "
    "NotSupported PublishFailed ServerError StreamNotFound Timeout UnknownEncoding UnknownType",
    "eda.handlers": "BatchHandler Handler PartialFailure Reject threaded",
    "eda.jetstream.stream_info": "StreamInfo",
    "eda.jetstream.streams": "Streams",
    "eda.keywords": "EventsBatchKeywords EventsKeywords SubscribeBatchKeywords SubscribeKeywords",
    "eda.lifetime": "ConnState",
    "eda.middleware.base": "FlushNext HandleBatchNext HandleNext Middleware PublishBatch PublishNext",
    "eda.options": "Retry StreamKeywords StreamOptions SubscriptionOptions",
    "eda.projection_errors": "NotApplied PositionInvalid TransactionEnded",
    "eda.projections.projection": "Projection",
    "eda.projections.relay": "Relay RelayStats",
    "eda.projections.stats": "ProjectionStats StreamProgress",
    "eda.projections.view": "View",
    "eda.publishing.pack": "Pack",
    "eda.publishing.publisher": "Publisher",
    "eda.publishing.publisher_options": "Mode",
    "eda.receipt": "Receipt",
    "eda.running": "run",
    "eda.stats": "Histogram PublisherStats SubscriptionStats",
    "eda.store.decider": "Decider",
    "eda.store.event_store": "EventStore Expected",
    "eda.store.results": "Appended Loaded",
    "eda.store_errors": "AggregateForgotten HistoryIncomplete VersionConflict",
    "eda.subscribing.behind": "Lag SubscriptionInfo",
    "eda.subscribing.details": "SubscriptionDetails",
    "eda.subscribing.events_iterator": "Events",
    "eda.subscribing.kept": "SubscriptionMove",
    "eda.subscribing.subscription": "Subscription",
    "eda.telemetry.prometheus": "PrometheusCollector prometheus",
    "eda.totals": "ConnStats",
    "eda.telemetry.otel": "OpenTelemetry",
    "eda.typed.registry": "payload",
    "eda.typed.upcasters": "upcast",
}
_MODULE_OF = {name: module for module, names in _NAMES_IN.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name
    from _thread import RLock as _RLock

    # nats-py's modules import each other in circles, so two threads must not begin to import them at the same time.
    _LOADING = _RLock()

    def __getattr__(name):
        """Return a public name, or a module such as `eda.errors`, after its import. Raises AttributeError."""
        import sys
        from importlib import import_module

        if name in _MODULE_OF:
            with _LOADING:
                value = getattr(import_module(_MODULE_OF[name]), name)
            globals()[name] = value
            return value
        if f"eda.{name}" in _NAMES_IN or name in ("sql", "testing"):
            with _LOADING:
                return import_module(f"eda.{name}")
        # Python uses `name` and `obj` to suggest the name that was probably meant.
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])

    def __dir__():
        """Return all names, also those that were not used yet."""
        return sorted({*globals(), *__all__})
