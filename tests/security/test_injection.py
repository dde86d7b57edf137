"""Names and texts of users put nothing but themselves on the wire: every byte written is taken apart by another parser.

`FakeServer` refuses, by ending its connection, whatever is not exactly one command after another; here the commands are
compared with what was asked for.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eda
from eda.headers import escape_text
from helpers import Logged, until, wire_of
from support.transport.fake_server import Command, FakeServer, parse_commands, parse_headers

NASTY = [
    "",
    "_",
    " ",
    ".",
    "..",
    "*",
    ">",
    "a.b",
    "a b",
    "\r\n",
    "a\r\nPUB stolen 0\r\n\r\n",
    "a 0\r\n\r\nPUB stolen 5\r\nhello\r\n",
    "a\nSUB > 99\n",
    "x\r\n\r\nNats-Rollup: all\r\n",
    "a: b\r\nNats-Expected-Last-Sequence: 1",
    "\x00",
    "a\x00b",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    "\u00a0",
    "\u3000",
    "\ufeff",
    "\u202e",
    "\t",
    "\x0b\x0c",
    "%0D%0A",
    "%",
    "%5F",
    "$JS.API.STREAM.DELETE.s",
    "$SYS.>",
    "😀" * 30,
    "x" * 900,
    "\udc80",
    "a\ud800b",
]
texts = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=30),
    st.text(alphabet="\r\n \t.*>%_\x00$:aé\u2028\ud800", max_size=40),
    st.tuples(st.sampled_from(NASTY), st.text(max_size=10)).map("".join),
)
relaxed = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _envelope_class() -> Any:
    """Build the message of docs/wire.md with the official protobuf library."""
    file = descriptor_pb2.FileDescriptorProto(name="injection.proto", package="injection", syntax="proto3")
    message = file.message_type.add(name="Envelope")
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {"data": field.TYPE_BYTES, "time": field.TYPE_INT64, "ack_time": field.TYPE_INT64}
    numbers = {"id": 1, "time": 2, "type": 3, "schema": 4, "cause": 5, "client": 6, "data": 7, "encoding": 8}
    for name, number in {**numbers, "ack_time": 11, "aggregate": 12}.items():
        message.field.add(name=name, number=number, type=kinds.get(name, field.TYPE_STRING), label=field.LABEL_OPTIONAL)
    entry = message.nested_type.add(name="MetaEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    message.field.add(
        name="meta",
        number=10,
        type=field.TYPE_MESSAGE,
        type_name=".injection.Envelope.MetaEntry",
        label=field.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("injection.Envelope"))


Envelope = _envelope_class()


def is_unicode(*given: str) -> bool:
    return not any(0xD800 <= ord(char) <= 0xDFFF for text in given for char in text)


def token(text: str) -> bytes:
    """Give what docs/wire.md says of a token, once more."""
    if text in ("", "_"):
        return b"%5F" if text else b"_"
    return b"".join(
        b"%%%02X" % byte if byte <= 0x20 or byte == 0x7F or byte in b".*>%" else bytes([byte]) for byte in text.encode()
    )


def run(main: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


# --- events ----------------------------------------------------------------------------------------------------------

WAYS = ["single", "window", "batch"]


@pytest.mark.parametrize("way", WAYS)
def test_event_when_its_texts_are_anything_is_one_publish_of_exactly_them(way: str) -> None:
    """One connection for all examples: an injected command would show in the next one at the latest."""

    async def main() -> None:
        async with FakeServer() as server, eda.connect(server.url, client="me") as conn:
            server.answers["STREAM.INFO.s"] = _atomic_stream()
            await conn.publish("s")
            refused: list[tuple[eda.Event, list[Command]]] = []
            for event in examples:
                server.commands.clear()
                try:
                    if way == "single":
                        await conn.publish("s", event)
                    elif way == "window":
                        async with conn.publisher("s", mode="window") as pub:
                            await pub.send(event)
                    else:
                        await conn.publish_batch("s", [event])
                except (eda.ConfigError, eda.EncodeError):
                    refused.append((event, server.find(b"HPUB")))
                    continue
                (sent,) = server.find(b"HPUB")
                assert sent.subject == b"s.%b.%b" % (token(event.type), token(event.aggregate))
                headers = parse_headers(sent.headers)
                allowed = {b"Nats-Msg-Id", b"Nats-Batch-Id", b"Nats-Batch-Sequence", b"Nats-Batch-Commit"}
                assert {name for name, _ in headers} <= allowed
                assert len(headers) == (4 if way == "batch" else 1)
                got = Envelope.FromString(sent.payload)
                assert dict(headers)[b"Nats-Msg-Id"] == got.id.encode()
                assert event.id in ("", got.id)
                assert (got.type, got.aggregate, got.client) == (event.type, event.aggregate, "me")
                assert (got.schema, got.cause, dict(got.meta)) == (event.schema, event.cause, dict(event.meta))
                others = {each.verb for each in server.commands} - {b"HPUB", b"PING", b"PONG", b"SUB", b"UNSUB", b"PUB"}
                assert not others
                assert all(each.subject.startswith(b"$JS.API.") for each in server.find(b"PUB"))
                assert all(each.subject.startswith(b"_INBOX.") for each in server.find(b"SUB"))
            for event, published in refused:
                assert not published
                assert not is_unicode(*texts_of(event)) or is_refusable(event), repr(event)
            assert server.n_accepted == 1
            assert not parse_commands(bytes(server.written))[1], "something is left that is no whole command"

    events = st.builds(
        lambda id, type, aggregate, schema, cause, meta: eda.Event(
            id=id, type=type, aggregate=aggregate, schema=schema, cause=cause, meta=meta
        ),
        st.one_of(st.just(""), texts, st.text(alphabet="abc-_.09", max_size=40)),
        texts, texts, texts, texts,
        st.dictionaries(texts, texts, max_size=3),
    )  # fmt: skip
    examples: list[eda.Event] = []

    @given(events)
    @relaxed
    def collect(event: eda.Event) -> None:
        examples.append(event)

    collect()
    run(main)


def _atomic_stream() -> dict[str, Any]:
    return {
        "config": {"name": "s", "subjects": ["s.>"], "duplicate_window": 120_000_000_000, "allow_atomic": True},
        "state": {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0},
        "created": "2026-01-01T00:00:00Z",
    }


def texts_of(event: eda.Event) -> list[str]:
    meta = [text for pair in event.meta.items() for text in pair]
    return [event.id, event.type, event.aggregate, event.schema, event.cause, *meta]


def is_refusable(event: eda.Event) -> bool:
    """Tell whether the id or the length is reason enough to refuse an event."""
    bad_id = len(event.id) > 128 or any(not "!" <= char <= "~" for char in event.id)
    return bad_id or len(token(event.type)) + len(token(event.aggregate)) > 3500


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_when_they_are_anything_are_refused_or_stand_for_themselves() -> None:
    async def main() -> None:
        async with FakeServer() as server, eda.connect(server.url, client="me") as conn:
            await conn.publish("s")
            for name in names:
                good = name.isascii() and 0 < len(name) <= 64 and all(char.isalnum() or char in "_-" for char in name)
                good_stream = good and name[0] not in "_-"
                calls = [
                    (good_stream, lambda name=name: conn.publish(name)),
                    (good_stream, lambda name=name: conn.streams.info(name)),
                    (good_stream, lambda name=name: conn.streams.create(name)),
                    (good_stream, lambda name=name: _subscribed(conn, name)),
                    (good, lambda name=name: _subscribed(conn, "s", name=name, durable=True)),
                    (good_stream, lambda name=name: _replayed(conn, name, "me")),
                    (good, lambda name=name: _replayed(conn, "s", name)),
                ]
                for is_good, call in calls:
                    server.commands.clear()
                    if is_good:
                        await call()
                        subjects = [each.subject for each in server.commands if each.verb in (b"PUB", b"HPUB")]
                        assert all(subject.isascii() for subject in subjects)
                        assert any(name.encode() in subject.split(b".") for subject in subjects), subjects
                    else:
                        with pytest.raises(eda.ConfigError):
                            await call()
                        assert not [each for each in server.commands if each.verb not in (b"PING", b"PONG")]
            assert server.n_accepted == 1

    names: list[str] = [*NASTY, "A" * 59, "A" * 65, "é", "a-b_C", "-a", "_a", "a\n", "٣"]

    @given(texts)
    @settings(relaxed, max_examples=40)
    def collect(name: str) -> None:
        names.append(name)

    collect()
    run(main)


async def _subscribed(conn: eda.Conn, stream: str, **options: Any) -> None:
    await (await conn.subscribe(stream, print, **options)).close()


async def _replayed(conn: eda.Conn, stream: str, name: str) -> None:
    await conn.replay_dead(stream, name, dead_letter="s-dead" if name != "me" else None)
    if name != "me":  # it reads nothing that would have the name in it
        await conn.streams.info(name) if name[0] not in "_-" else await _subscribed(conn, "s", name=name, durable=True)


@pytest.mark.parametrize("types", [["\r\n", "a.b", ">"], ["*"], ["é\u2028", " "], ["x" * 500]], ids=ascii)
async def test_filters_when_they_are_anything_are_json_and_escaped(types: list[str], fake: FakeServer) -> None:
    async with eda.connect(fake.url) as conn:
        await _subscribed(conn, "s", types=types, aggregate="a\r\nb.*")
    (created,) = fake.find(b"PUB", b"$JS.API.CONSUMER.CREATE.s.")
    subjects = json.loads(created.payload)["config"]["filter_subjects"]
    assert sorted(subjects) == sorted(f"s.{token(each).decode()}.a%0D%0Ab%2E%2A" for each in types)


@pytest.mark.parametrize("client", [each for each in NASTY if each], ids=ascii)
async def test_client_when_it_is_anything_is_a_text_in_connect_and_envelope_or_refused(
    client: str, fake: FakeServer
) -> None:
    if not is_unicode(client):
        with pytest.raises(eda.ConfigError, match="client"):
            eda.connect(fake.url, client=client)
        return
    async with eda.connect(fake.url, client=client) as conn:
        await conn.publish("s")
    (connect,) = (each for each in fake.commands if each.verb == b"CONNECT")
    assert json.loads(connect.payload)["name"] == client
    (sent,) = fake.find(b"HPUB")
    assert Envelope.FromString(sent.payload).client == client
    assert fake.n_accepted == 1


@pytest.mark.parametrize("cluster", [each for each in [*NASTY, "٣", "é"] if each != "_" and len(each) < 900], ids=ascii)
def test_cluster_when_it_is_no_name_is_refused(cluster: str) -> None:
    with pytest.raises(eda.ConfigError, match="cluster"):
        eda.connect("nats://127.0.0.1:1", cluster=cluster)


@given(texts)
@settings(deadline=None)
def test_dead_letter_header_when_its_text_is_anything_is_one_printable_line(text: str) -> None:
    escaped = escape_text(text).encode("ascii")
    assert all(32 <= byte < 127 for byte in escaped)
    assert parse_headers(b"NATS/1.0\r\nEda-Dead-Error: %b\r\n\r\n" % escaped) == [(b"Eda-Dead-Error", escaped.strip())]


# Lone surrogates stand in the log as well, where pytest-xdist can't pass them on: the test above has them.
@pytest.mark.parametrize("text", [text for text in NASTY if is_unicode(text)], ids=ascii)
async def test_dead_letter_when_the_error_is_anything_has_its_own_headers_only(
    text: str, fake: FakeServer, logged: Logged
) -> None:
    """From a delivery whose handler rejects it to the dead letter on the wire."""
    logged.allow("rejected")

    def reject(event: eda.Event) -> None:
        raise eda.Reject(text)

    async with eda.connect(fake.url, client="me") as conn:
        async with conn.subscribe("s", reject, name="me", durable=True):
            await until(lambda: fake.find(b"PUB", b"$JS.API.CONSUMER.MSG.NEXT.s.me"))
            inbox = fake.find(b"PUB", b"$JS.API.CONSUMER.MSG.NEXT.s.me")[-1].reply
            fake.say(inbox, b"\x1a\x04\r\n.>", reply=b"$JS.ACK.s.me.1.1.1.1700000000000000000.0")
            await until(lambda: fake.find(b"HPUB", b"s-dead."))
            await wire_of(conn).barrier(2)
    (letter,) = fake.find(b"HPUB", b"s-dead.")
    assert letter.subject == b"s-dead.%0D%0A%2E%3E._"
    names = [name for name, _ in parse_headers(letter.headers)]
    assert len(set(names)) == len(names)
    assert all(name == b"Nats-Msg-Id" or name.startswith(b"Eda-Dead-") for name in names)
