"""The ratios that must hold, each between figures of one run; figures are times, less is better."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BARS", "Bar"]


@dataclass(frozen=True)
class Bar:
    """A ratio of two noted figures and its bound."""

    what: str
    above: str
    below: str
    sign: str
    bound: float

    def ratio(self, figures: dict[str, float]) -> float:
        """Return the ratio. Raises KeyError when a figure was not measured."""
        return figures[self.above] / figures[self.below]

    def holds(self, ratio: float) -> bool:
        """Whether the bar is met."""
        return ratio >= self.bound if self.sign == ">=" else ratio <= self.bound


BARS = [
    Bar("encode to frame and envelope: times faster than protobuf", "protobuf encode ns", "eda encode ns", ">=", 10),
    Bar("decode, read id type data: times faster than protobuf", "protobuf decode ns", "eda decode ns", ">=", 6),
    Bar("decode, read id type data: times faster than msgpack", "msgpack decode ns", "eda decode ns", ">=", 6),
    Bar("publish one by one: latency over a bare socket's", "eda publish us", "bare publish us", "<=", 2.0),
    Bar("publish one by one, uvloop: over a bare socket's", "eda uvloop publish us", "bare publish us", "<=", 1.4),
    Bar(
        "50,000 concurrent publishes: times nats-py's publish_async",
        "nats-py publish_async s",
        "eda publish s",
        ">=",
        2,
    ),
    Bar("subscribe and acknowledge: times nats-py's push", "nats-py push s", "eda subscribe s", ">=", 1.3),
    Bar("subscribe and acknowledge: times nats-py's fetch", "nats-py fetch s", "eda subscribe s", ">=", 6),
    Bar("memory while 1,000,000 events pass: end over begin", "rss end MB", "rss begin MB", "<=", 1.1),
    # Publishing at volume: bare / ours is the part of the limit's rate that is reached.
    Bar("fast ingest: part of a bare socket's rate", "bare fast s", "eda fast s", ">=", 0.85),
    Bar("window: part of a bare socket's rate", "bare window s", "eda window s", ">=", 0.85),
    Bar(
        "fast ingest, dedup=False: part of a bare socket's rate",
        "bare fast no dedup s",
        "eda fast no dedup s",
        ">=",
        0.85,
    ),
    Bar("fast ingest: times nats-py's publish_async", "nats-py publish_async volume s", "eda fast s", ">=", 3),
    Bar("window: times nats-py's publish_async", "nats-py publish_async volume s", "eda window s", ">=", 3),
    Bar("fast ingest: client CPU under nats-py's", "nats-py volume CPU us", "eda fast CPU us", ">=", 12),
    Bar("window: client CPU under nats-py's", "nats-py volume CPU us", "eda window CPU us", ">=", 12),
    Bar(
        "send_many: times protobuf serialising prepared messages", "protobuf serialise ns", "eda send many ns", ">=", 3
    ),
    Bar("send_many: times protobuf building and serialising", "protobuf build ns", "eda send many ns", ">=", 10),
    Bar(
        "memory, 5,000,000 events through a publisher: end over begin",
        "publisher rss end MB",
        "publisher rss begin MB",
        "<=",
        1.1,
    ),
    # Consuming at volume: more of the first over the second is faster.
    Bar("default subscription: part of a bare reader's rate", "bare reader s", "eda default s", ">=", 0.9),
    Bar("exclusive: times the default", "eda default s", "eda exclusive s", ">=", 1.6),
    Bar("exclusive, batch=500: times the default", "eda default s", "eda exclusive batch s", ">=", 1.8),
    Bar("serial: times the default", "eda default s", "eda serial s", ">=", 1.5),
    Bar("serial: times nats-py with max_ack_pending 1", "nats-py one at a time s", "eda serial few s", ">=", 20),
    Bar("serial strict: times nats-py with max_ack_pending 1", "nats-py one at a time s", "eda strict s", ">=", 1),
    Bar("key, concurrency=16, 10,000 aggregates: times the default", "eda default s", "eda key s", ">=", 1),
    Bar("default: times nats-py's push and ack", "nats-py push ack s", "eda default s", ">=", 1.5),
    Bar("default: times nats-py's fetch and ack", "nats-py fetch ack s", "eda default s", ">=", 8),
    Bar("default: client CPU under nats-py's push", "nats-py push CPU us", "eda default CPU us", ">=", 4),
    Bar("default: client CPU under nats-py's fetch", "nats-py fetch CPU us", "eda default CPU us", ">=", 15),
    Bar("publish to handler, idle: over a bare socket's", "eda delivery us", "bare delivery us", "<=", 2.2),
    Bar(
        "publish to handler, uvloop: over a bare socket's",
        "eda uvloop delivery us",
        "bare delivery us",
        "<=",
        1.5,
    ),
    Bar(
        "Event() to buffer: times faster than protobuf building it",
        "protobuf build ns",
        "eda build and send ns",
        ">=",
        4.4,
    ),
    Bar(
        "bytes to handler: times faster than protobuf building it", "protobuf build ns", "eda to handler ns", ">=", 3.67
    ),
    Bar("dispatch alone: over awaiting the handler", "eda dispatch ns", "plain await ns", "<=", 6),
    Bar("event from a payload: over Event() with eda.JSON", "typed event ns", "untyped event ns", "<=", 1.2),
    Bar("event.payload(): over msgspec's decoding", "typed decode ns", "untyped decode ns", "<=", 1.3),
    # A router's handler, beside an untyped handler and msgspec's decoding of the same bytes. A Struct has an
    # `async def`, a dataclass a plain function.
    *(
        Bar(
            f"typed handling, {kind}, {shown}: over the untyped handler and msgspec",
            f"eda typed {kind} {shown} s",
            f"eda untyped {kind}, msgspec {shown} s",
            "<=",
            1.3,
        )
        for kind in ("default", "exclusive")
        for shown in ("Struct", "dataclass")
    ),
    # The event store.
    Bar(
        "load of 10 events among 1,000,000 aggregates: over among 1,000",
        "eda load us",
        "eda load among few us",
        "<=",
        1.3,
    ),
    Bar(
        "load of 10 events: over a bare socket's direct get of one message",
        "eda load us",
        "bare direct get us",
        "<=",
        6,
    ),
    Bar("load of 10 events: over a bare socket's same requests", "eda load us", "bare load us", "<=", 3),
    Bar("load of 10,000 events with a snapshot: over 10 events", "eda load long us", "eda load ten us", "<=", 2),
    Bar("append one by one: over conn.publish", "eda append us", "eda publish order us", "<=", 1.3),
    Bar("warm execute, 200 at once: part of a bare socket's rate", "bare execute s", "eda execute s", ">=", 0.85),
    Bar(
        "warm execute, 200 at once, server and client on a core each: part of a bare socket's rate",
        "bare execute apart s",
        "eda execute apart s",
        ">=",
        0.85,
    ),
    Bar("warm execute, 200 at once: part of conn.publish's rate", "eda publish orders s", "eda execute s", ">=", 0.4),
    *(
        Bar(
            f"{what} of an order of 10 events: times eventsourcing on {database}",
            f"eventsourcing {database} {what} us",
            f"eda beside {database} {what} us",
            ">=",
            3,
        )
        for what in ("save", "load")
        for database in ("SQLite", "PostgreSQL")
    ),
    Bar("folding decoded events: microseconds per event", "eda fold ns", "a microsecond ns", "<=", 1),
    Bar(
        "memory while 1,000,000 aggregates are touched: end over begin",
        "store rss end MB",
        "store rss begin MB",
        "<=",
        1.1,
    ),
    # Read models and the outbox.
    *(
        Bar(
            f"rows projected by {driver}: part of the rate of a plain loop over {words}",
            f"{loop} rows {driver} s",
            f"eda rows {driver} s",
            ">=",
            0.7,
        )
        for driver in ("sqlite", "psycopg", "asyncpg")
        for loop, words in (("plain", "received events"), ("decoded", "decoded events"))
    ),
    Bar("wait_for after the commit: milliseconds", "wait_for us", "a millisecond us", "<=", 2),
    Bar(
        "wait_for after the commit, in another process: milliseconds",
        "wait_for elsewhere us",
        "a millisecond us",
        "<=",
        20,
    ),
    *(
        Bar(
            f"rows projected into {database}: times eventsourcing",
            f"eventsourcing {database} project us",
            f"eda beside {database} project us",
            ">=",
            5,
        )
        for database in ("SQLite", "PostgreSQL")
    ),
    Bar(
        "outbox relay: part of reading the rows plus a publisher", "reading and publishing s", "eda relay s", ">=", 0.6
    ),
    Bar("outbox, from NOTIFY to stored: milliseconds", "notify to stored us", "a millisecond us", "<=", 20),
    # Packs.
    Bar("packs, send_many of ready events: part of a bare socket's rate", "bare packs s", "eda packs s", ">=", 0.5),
    Bar("packs, send_many of ready events: times without packs", "eda unpacked s", "eda packs s", ">=", 6),
    Bar("packs, send one by one: times without packs", "eda unpacked one by one s", "eda packs one by one s", ">=", 3),
    Bar(
        "packs, send one by one: client CPU over Event() and encoding",
        "eda packs CPU us",
        "Event and encoding without id us",
        "<=",
        1.6,
    ),
    *(
        Bar(
            f"consuming packs, {kind}: times without packs",
            f"consume-unpacked {kind} s",
            f"consume-packed {kind} s",
            ">=",
            bound,
        )
        for kind, bound in (("exclusive batch", 1.7), ("default", 2.5), ("serial", 1.3), ("key", 1.3))
    ),
    Bar(
        "packs, publish to handler, idle: over without packs and linger_s",
        "packs idle us",
        "unpacked idle and linger us",
        "<=",
        1,
    ),
    Bar("packs, 150,000 events/s, p99: part of that without packs", "packs p99 us", "unpacked p99 us", "<=", 0.25),
    Bar("packs with zstd: part of the bytes on disk without packs", "packs zstd bytes", "unpacked bytes", "<=", 0.2),
    Bar("memory, 20,000,000 events in packs: end over begin", "packs rss end MB", "packs rss begin MB", "<=", 1.1),
    # Telemetry.
    Bar(
        "1 % of the traces sampled: time over that without telemetry", "eda 1 % traced s", "eda untraced s", "<=", 1.11
    ),
    Bar("every event traced: times FastStream with its telemetry", "FastStream traced s", "eda traced s", ">=", 3),
    # The command line. The figures are wall times, so they need a quiet machine.
    *(
        Bar(f"eda {name}: part of 150 ms", f"eda {name} ms", "allowed 150 ms", "<=", 1)
        for name in ("--help", "doctor --help", "bench --help", "completion")
    ),
    *(
        Bar(f"eda {name}, first output: part of 350 ms", f"eda {name} ms", "allowed 350 ms", "<=", 1)
        for name in (
            *("copy", "dead drop", "dead ls", "dead replay", "dead show", "doctor", "graph", "lag", "outbox relay"),
            *("pub", "replay", "replay, into a stream", "store cat", "streams create", "streams info", "streams ls"),
            *("streams purge", "streams rm", "streams update", "subs info", "subs info, held", "subs ls"),
            *("subs reset", "subs rewind", "subs rm", "tail", "top", "views ls", "views promote", "views rebuild"),
        )
    ),
    # The command line: processes as a whole, with their start.
    Bar("eda tail to JSON lines: times 150,000 events/s", "150,000 events a second s", "eda tail s", ">=", 1),
    Bar("eda tail, first line: over 350 ms", "eda tail, first line s", "350 ms s", "<=", 1),
    Bar("eda pub from JSON lines: part of publisher.send's rate", "publisher send s", "eda pub s", ">=", 0.5),
    Bar(
        "eda pub from JSON lines into packs: part of publisher.send's rate",
        *("publisher send, packed s", "eda pub, packed s", ">=", 0.5),
    ),
]
