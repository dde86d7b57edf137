"""Texts and lists of subclasses, StrEnum among them, at every entry: they work as the str and list that they are."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import eda
from eda.encodings import decode_value
from eda.transport.addresses import parse_addresses
from helpers import Connect, Logged, until


class Names(enum.StrEnum):
    """As programs name their streams."""

    TYPE = "order-paid"
    AGGREGATE = "a-1"
    NAME = "billing"
    CLIENT = "some-client"


class Text(str):
    """A text that answers with something else wherever it is asked."""

    def __str__(self) -> str:
        return "wrong"

    def __format__(self, spec: str) -> str:
        return "wrong"

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        return b"wrong"

    def replace(self, *_: Any) -> str:  # type: ignore[override]
        return "wrong"

    def translate(self, *_: Any) -> str:
        return "wrong"


class Items(list[Any]):
    """A list of a subclass."""


def enum_of(text: str) -> str:
    return enum.StrEnum("Made", {"IT": text}).IT  # type: ignore[attr-defined, no-any-return]


every_kind = pytest.mark.parametrize("make", [Text, enum_of], ids=["subclass", "StrEnum"])
EVENT = eda.Event(type=Names.TYPE, aggregate=Names.AGGREGATE)


@every_kind
async def test_stream_when_it_is_of_a_subclass_is_published_to(conn: eda.Conn, stream: str, make: Any) -> None:
    for _ in range(2):  # unknown, and known
        receipt = await conn.publish(make(stream), EVENT)
        assert (type(receipt.stream), receipt.stream) == (str, stream)
    async with conn.publisher(make(stream), mode=make("window")) as publisher:
        await publisher.send(EVENT)
        assert publisher.stats().mode == "window"
    receipts = await conn.publish_batch(make(stream), Items([EVENT, EVENT]))
    assert [type(receipt.stream) for receipt in receipts] == [str, str]
    assert (await conn.streams.info(make(stream))).events == 5


@every_kind
async def test_stream_when_it_is_of_a_subclass_is_administered(conn: eda.Conn, stream: str, make: Any) -> None:
    options = eda.StreamOptions(storage=make("memory"), discard=make("new"), compression=make("s2"))
    assert {type(options.storage), type(options.discard), type(options.compression)} == {str}
    info = await conn.streams.create(make(stream), options)
    assert (info.name, info.options.storage, info.options.discard) == (stream, "memory", "new")
    await conn.streams.update(make(stream), options)
    await conn.streams.purge(make(stream))
    await conn.streams.delete(make(stream))
    with pytest.raises(eda.StreamNotFound):
        await conn.streams.info(make(stream))


async def generated(events: list[eda.Event]) -> AsyncIterator[eda.Event]:
    for event in events:
        yield event


@pytest.mark.parametrize("mode", ["window", "fast"])
@pytest.mark.parametrize("make", [Items, tuple, iter, generated, list, dict.fromkeys], ids=lambda make: make.__name__)
async def test_send_many_when_given_any_iterable_sends_it(conn: eda.Conn, stream: str, mode: Any, make: Any) -> None:
    events = [eda.Event(type="t", id=f"i{n}") for n in range(3)]
    async with conn.publisher(stream, mode=mode) as publisher:
        assert await publisher.send_many(make(events)) == ["i0", "i1", "i2"]


OPTIONS: dict[str, dict[str, Any]] = {
    "shared": {},
    "exclusive": {"exclusive": True},
    "serial": {"serial": True},
    "strict": {"serial": "strict"},
    "key": {"key": "aggregate"},
}


@every_kind
@pytest.mark.parametrize("kind", OPTIONS)
async def test_options_when_they_are_of_a_subclass_are_kept_as_texts(
    conn: eda.Conn, stream: str, logged: Logged, make: Any, kind: str
) -> None:
    logged.expect("handler rejected event")
    await conn.publish(stream, EVENT)
    await conn.publish(stream, eda.Event(type="other"))
    given = {name: make(value) if isinstance(value, str) else value for name, value in OPTIONS[kind].items()}
    given |= {"name": make("billing"), "durable": True, "backfill": True, "dead_letter": make("{stream}-gone")}
    given |= {"types": Items([make(Names.TYPE)]), "aggregate": make(Names.AGGREGATE)}
    options = eda.SubscriptionOptions(**given)
    texts = [options.name, options.aggregate, options.dead_letter, options.serial, options.key, *(options.types or ())]
    assert {type(text) for text in texts} <= {str, bool, type(None)}
    seen: list[eda.Event] = []

    def handle(event: eda.Event) -> None:
        seen.append(event)
        raise eda.Reject(make("not today"))

    async with conn.subscribe(make(stream), handle, options):
        await until(lambda: seen)
    assert [(type(event.stream), event.stream, event.type) for event in seen] == [(str, stream, Names.TYPE)]
    assert seen[0].is_type(make(Names.TYPE))
    gone = f"{stream}-gone"
    await until(lambda: _n_events(conn, gone))
    assert await conn.replay_dead(make(stream), make("billing"), dead_letter=make(gone)) == 1
    async with conn.events(make(stream), types=(make("other"),), backfill=True) as events:
        assert (await anext(events)).type == "other"


class Counts(enum.IntEnum):
    ONE = 1
    MANY = 10**6


class Seconds(float):
    """A number of a subclass, as numpy has them."""


async def test_options_when_their_numbers_are_of_a_subclass_are_kept_as_numbers(conn: eda.Conn, stream: str) -> None:
    options = eda.StreamOptions(
        replicas=Counts.ONE,
        max_bytes=Counts.MANY,
        max_events=Counts.MANY,
        max_age_s=Seconds(60),
        dedup_window_s=Seconds(9),
    )
    assert {type(getattr(options, name)) for name in ("replicas", "max_bytes", "max_age_s")} == {int, float}
    assert (await conn.streams.create(stream, options)).options.max_bytes == 10**6
    assert (await conn.streams.update(stream, max_events=Counts.ONE)).options.max_events == 1
    await conn.publish(stream, EVENT)
    kinds: list[dict[str, Any]] = [{}, {"name": "a", "durable": True}, {"name": "b", "durable": True, "serial": True}]
    for kind in kinds:
        async with conn.events(stream, start=Counts.ONE, timeout_s=Seconds(5), prefetch=Counts.ONE, **kind) as events:
            assert (await anext(events)).sequence == 1


async def _n_events(conn: eda.Conn, stream: str) -> int:
    try:
        return (await conn.streams.info(stream)).events
    except eda.StreamNotFound:
        return 0


@every_kind
async def test_connection_when_its_texts_are_of_a_subclass_is_made(
    server: eda.EmbeddedServer, connect: Connect, stream: str, make: Any, tmp_path: Path
) -> None:
    for addr in (make(server.url), Items([make(server.url)]), (make(server.url),)):
        conn = await connect(addr, client=make("some-client"))
        assert (type(conn.client), conn.client) == (str, "some-client")
        seen: list[eda.Event] = []
        async with conn.subscribe(stream, seen.append, durable=True):
            await conn.publish(stream, eda.Event(type="t"))
            await until(lambda: seen)  # noqa: B023
        assert seen[0].client == "some-client"
    with pytest.raises(eda.ConfigError, match="there is no file"):
        eda.connect(make(server.url), credentials=make(str(tmp_path / "none")))
    assert parse_addresses(make("embedded:")).embedded


@every_kind
async def test_domain_and_secrets_when_they_are_of_a_subclass_are_used(make: Any) -> None:
    async with eda.EmbeddedServer(config={"jetstream": {"domain": "hub"}}) as server:
        conn = eda.connect(make(server.url), cluster=make("hub"), client=make("c"))
        async with asyncio.timeout(20), conn:
            assert (await conn.publish("s", EVENT)).sequence == 1


@every_kind
def test_encoding_when_its_name_is_of_a_subclass_is_that_text(make: Any) -> None:
    name = f"subclasses-{make.__name__}"
    eda.register_encoding(make(name), lambda value: str(value).encode(), lambda data: data.decode())
    data = eda.Data(make(name), 5)
    assert (type(data.type), data.type, data.encode(), data.decode()) == (str, name, b"5", "5")
    assert decode_value(make(name), b"5") == "5"
    with pytest.raises(eda.ConfigError, match="built-in"):
        eda.register_encoding(make("json"), repr, repr)  # type: ignore[arg-type]


@every_kind
async def test_event_when_its_texts_are_of_a_subclass_has_texts(conn: eda.Conn, stream: str, make: Any) -> None:
    fields = dict.fromkeys(("type", "schema", "cause", "client", "aggregate", "id"), make("x"))
    event = eda.Event(**fields, stream=make(stream), meta={make("k"): make("v")})
    await conn.publish(stream, event.replace(**fields))
    async with conn.events(stream, backfill=True) as events:
        received = await anext(events)
    for each in (event, received):
        texts = [*(getattr(each, name) for name in fields), *each.meta, *each.meta.values(), each.stream]
        assert {type(text) for text in texts} == {str}
        assert (each.type, each.meta) == ("x", {"k": "v"})


class Number(int):
    """Not an int of its own."""


class Real(float):
    """Not a float of its own."""


@every_kind
@pytest.mark.parametrize("encoding", [eda.JSON, eda.MsgPack], ids=["json", "msgpack"])
def test_data_when_its_values_are_of_subclasses_is_encoded_as_what_they_are(make: Any, encoding: Any) -> None:
    value = {"a": make("x"), "b": Items([Number(1), Real(1.5)]), make("c"): (make("y"),)}
    assert encoding(value).decode() == {"a": "x", "b": [1, 1.5], "c": ["y"]}
    assert eda.String(make("x")).encode() == b"x"
    with pytest.raises(eda.EncodeError):
        eda.JSON([Real("nan")]).encode()
