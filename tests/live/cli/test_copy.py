"""`eda copy` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

import eda
from eda._pack import place_of
from helpers import freeze, needs_freeze, until
from support.cli.commands import run_eda
from support.cli.terminal import run_in_terminal

RESULT = {
    *("source", "target", "read", "stored", "duplicates", "refused", "no_events", "complete", "next", "seconds"),
}


@pytest.fixture
def conn(shop: eda.Conn) -> eda.Conn:
    return shop


def event(number: int) -> eda.Event:
    return eda.Event(
        id=f"e{number}",
        type=f"type-{number % 3}",
        aggregate=f"a{number % 5}",
        cause=f"e{number - 1}" if number else "",
        schema="v1",
        time=number + 1,
        meta={"n": str(number)},
        data=eda.JSON({"n": number}),
    )


async def fill(conn: eda.Conn, stream: str, n_events: int, *, packed: bool = False) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=packed))
    pack = eda.Pack(max_events=7) if packed else None
    async with conn.publisher(stream, pack=pack) as publisher:
        await publisher.send_many([event(number) for number in range(n_events)])


async def events_of(conn: eda.Conn, stream: str) -> list[eda.Event]:
    """Return all events of a stream."""
    info = await conn.streams.info(stream)
    found: list[eda.Event] = []
    if not info.events:
        return found
    async with conn.events(stream, backfill=True, batch=500) as events:
        while not found or found[-1].sequence < info.last_sequence or events.subscription.stats().buffered:
            found += await anext(events)
    return found


def same(event: eda.Event) -> tuple[Any, ...]:
    """Return all that a copy keeps."""
    return (
        *(event.id, event.type, event.aggregate, event.cause, event.client, event.schema, event.time_ns),
        *(event.ack_time_ns, tuple(event.meta.items()), event.data.type, event.data.encode()),
    )


async def copied(own_server: eda.EmbeddedServer, *arguments: str, code: int = 0) -> dict[str, Any]:
    ended, out, err = await run_eda("copy", *arguments, "--addr", own_server.url, "--json")
    assert (ended, err) == (code, "")
    told: dict[str, Any] = json.loads(out)
    assert set(told) == RESULT
    return told


async def refused(own_server: eda.EmbeddedServer, *arguments: str) -> str:
    ended, out, err = await run_eda("copy", *arguments, "--addr", own_server.url)
    assert (ended, out) == (2, "")
    return err


@pytest.mark.parametrize(("from_packed", "to_packed"), [(False, False), (False, True), (True, False), (True, True)])
async def test_copy_when_done_has_every_event_in_order_with_everything(
    own_server: eda.EmbeddedServer, conn: eda.Conn, from_packed: bool, to_packed: bool
) -> None:
    await fill(conn, "orders", 1000, packed=from_packed)
    await conn.streams.create("backup", eda.StreamOptions(packed=to_packed))
    told = await copied(own_server, "orders", "backup")
    assert (told["read"], told["stored"], told["duplicates"], told["refused"]) == (1000, 1000, 0, 0)
    assert told["complete"] is True
    source = await events_of(conn, "orders")
    assert [same(each) for each in await events_of(conn, "backup")] == [same(each) for each in source]
    info = await conn.streams.info("backup")
    assert (info.events < 1000) == to_packed
    assert [each.name for each in await conn.subscriptions("orders")] == []


@pytest.mark.parametrize("packed", [False, True])
async def test_copy_when_a_range_or_filter_is_given_has_these_events(
    own_server: eda.EmbeddedServer, conn: eda.Conn, packed: bool
) -> None:
    await fill(conn, "orders", 50, packed=packed)
    source = await events_of(conn, "orders")
    first, last = source[10], source[30]
    ids = [each.id for each in source]
    for name, arguments, expected in (
        ("places", ["--from", place_of(first), "--to", place_of(last)], ids[10:31]),
        ("type", ["--type", "type-1"], [each.id for each in source if each.type == "type-1"]),
        ("aggregate", ["--aggregate", "a2"], [each.id for each in source if each.aggregate == "a2"]),
        ("beyond", ["--from", "100000"], []),
        ("past", ["--to", "2020-01-01"], []),
        ("all", ["--from", "1h", "--to", "2099-01-01"], ids),
    ):
        told = await copied(own_server, "orders", name, "--create", *arguments)
        assert told["stored"] == len(expected)
        assert [each.id for each in await events_of(conn, name)] == expected


async def test_copy_when_the_end_names_a_message_has_all_of_its_pack(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await fill(conn, "orders", 50, packed=True)
    source = await events_of(conn, "orders")
    await copied(own_server, "orders", "two", "--create", "--from", "2", "--to", "3")
    assert [each.id for each in await events_of(conn, "two")] == [each.id for each in source if each.sequence in (2, 3)]


async def test_copy_when_the_range_ends_within_a_pack_continues_after_its_last_event(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await fill(conn, "orders", 50, packed=True)
    source = await events_of(conn, "orders")
    assert [place_of(each) for each in source[8:13]] == ["2.1", "2.2", "2.3", "2.4", "2.5"]
    told = await copied(own_server, "orders", "part", "--create", "--from", "2.1", "--to", "2.3")
    assert (told["stored"], told["next"]) == (3, "2.4")
    told = await copied(own_server, "orders", "part", "--append", "--from", told["next"], "--to", "3")
    assert told["next"] == "4"
    assert [each.id for each in await events_of(conn, "part")] == [
        each.id for each in source if "2.1" <= place_of(each) < "4"
    ]
    told = await copied(own_server, "orders", "none", "--create", "--from", "5", "--to", "3")
    assert (told["stored"], told["next"]) == (0, "5")


async def test_copy_when_created_has_the_settings_of_the_source(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    options = eda.StreamOptions(packed=True, storage="memory", max_events=5000, compression="s2")
    await conn.streams.create("orders", options)
    await conn.publish("orders", event(1))
    assert "--create makes it" in await refused(own_server, "orders", "backup")
    await copied(own_server, "orders", "backup", "--create")
    made = (await conn.streams.info("backup")).options
    assert replace(made, atomic=None, fast_ingest=None) == replace(options, atomic=None, fast_ingest=None)


async def test_copy_when_the_target_is_on_another_server_copies_there(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await fill(conn, "orders", 100)
    async with eda.EmbeddedServer() as second, eda.connect(second.url) as other:
        told = await copied(own_server, "orders", "orders", "--target-addr", second.url, "--create")
        assert told["stored"] == 100
        source = await events_of(conn, "orders")
        assert [same(each) for each in await events_of(other, "orders")] == [same(each) for each in source]
    err = await refused(own_server, "orders", "orders", "--target-addr", own_server.url)
    assert "are the same stream" in err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--target-addr", ""], "--target-addr: 'nats://' names no host"),
        (["--target-addr", "x:y"], "--target-addr: 'nats://x' is not a URL, or its port is not a number"),
        (["--target-addr", "nats://127.0.0.1:1", "--target-context", "c"], "--target-addr and --target-context name"),
        (["--target-context", ""], "'' is not the name of a context"),
        (["--target-cluster", ""], "--target-cluster must be a text that is not empty"),
        (["--target-cluster", "a.b"], "--target-cluster must be the name of a JetStream domain"),
    ],
)
async def test_copy_when_the_target_server_is_named_wrongly_says_so(
    own_server: eda.EmbeddedServer, conn: eda.Conn, options: list[str], why: str
) -> None:
    await fill(conn, "orders", 1)
    assert why in await refused(own_server, "orders", "copies", "--create", *options)
    assert [info.name for info in await conn.streams.list()] == ["orders"]


async def test_copy_when_events_have_no_id_gives_them_the_same_each_time(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await conn.streams.create("orders")
    services = conn._lifetime._services
    assert services is not None
    # Another program publishes an envelope with a type alone.
    for _ in range(2):
        await services.wire.request("orders.paid._", b"\x1a\x04paid", timeout=5.0)
    told = await copied(own_server, "orders", "backup", "--create")
    assert (told["stored"], told["duplicates"]) == (2, 0)
    ids = [each.id for each in await events_of(conn, "backup")]
    assert len({*ids}) == 2
    assert all(each.startswith("copy:orders:") for each in ids)
    again = await copied(own_server, "orders", "backup", "--append")
    assert (again["stored"], again["duplicates"]) == (2, 2)
    assert [each.id for each in await events_of(conn, "backup")] == ids


async def test_copy_when_the_target_has_events_needs_to_be_told_why(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await fill(conn, "orders", 20)
    await copied(own_server, "orders", "backup", "--create")
    err = await refused(own_server, "orders", "backup")
    assert "stream 'backup' has 20 messages already. Add --resume" in err
    code, _, err = await run_eda("copy", "a", "b", "--resume", "--append")
    assert code == 2
    assert "Choose one of" in err
    told = await copied(own_server, "orders", "backup", "--append")
    assert (told["stored"], told["duplicates"]) == (20, 20)
    assert (await conn.streams.info("backup")).events == 20


@pytest.mark.parametrize("packed", [False, True])
async def test_copy_when_resumed_continues_after_the_last_event(
    own_server: eda.EmbeddedServer, conn: eda.Conn, packed: bool
) -> None:
    await fill(conn, "orders", 100, packed=packed)
    ids = [each.id for each in await events_of(conn, "orders")]
    told = await copied(own_server, "orders", "backup", "--create", "--resume", "--to", "6")
    assert told["complete"] is True
    n_first = told["stored"]
    assert 0 < n_first < 100
    told = await copied(own_server, "orders", "backup", "--resume")
    assert (told["stored"], told["duplicates"]) == (100 - n_first, 0)
    assert [each.id for each in await events_of(conn, "backup")] == ids
    told = await copied(own_server, "orders", "backup", "--resume")
    assert (told["read"], told["stored"], told["next"]) == (
        0,
        0,
        str((await conn.streams.info("orders")).last_sequence + 1),
    )


async def test_copy_when_resumed_from_a_copy_finds_its_place(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    # The events of `second` keep the time at which `orders` stored them.
    await fill(conn, "orders", 100)
    await copied(own_server, "orders", "second", "--create")
    await copied(own_server, "second", "third", "--create", "--to", "40")
    told = await copied(own_server, "second", "third", "--resume")
    assert told["stored"] == 60
    assert [each.id for each in await events_of(conn, "third")] == [f"e{number}" for number in range(100)]


async def test_copy_when_somebody_else_wrote_to_the_target_is_not_resumed(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await fill(conn, "orders", 20)
    await copied(own_server, "orders", "backup", "--create", "--to", "10")
    await conn.publish("backup", eda.Event(id="mine", type="other"))
    err = await refused(own_server, "orders", "backup", "--resume")
    assert "the last event of stream 'backup' (id 'mine') is not among the chosen events of stream 'orders'" in err


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_copy_when_stopped_in_the_middle_continues_without_a_gap_or_a_duplicate(
    own_server: eda.EmbeddedServer, conn: eda.Conn, packed: bool, by: signal.Signals
) -> None:
    n_events = 60_000
    await fill(conn, "orders", n_events, packed=packed)
    await conn.streams.create("backup", eda.StreamOptions(packed=packed))
    arguments = ["copy", "orders", "backup", "--addr", own_server.url, "--json"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await until(lambda: has_events(conn, "backup"), timeout_s=60)
    process.send_signal(by)
    out, err = await process.communicate()
    if by == signal.SIGKILL:
        assert process.returncode == -by
        told = await copied(own_server, "orders", "backup", "--resume")
    else:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[by], err
        first = json.loads(out)
        assert first["complete"] is False
        assert (first["read"], first["duplicates"]) == (first["stored"], 0)
        told = await copied(own_server, "orders", "backup", "--append", "--from", first["next"])
        assert first["stored"] + told["stored"] == n_events
    assert told["duplicates"] == 0
    ids = [each.id for each in await events_of(conn, "backup")]
    assert ids == [f"e{number}" for number in range(n_events)]


async def has_events(conn: eda.Conn, stream: str) -> bool:
    return (await conn.streams.info(stream)).events > 0


async def test_copy_when_the_target_can_not_hold_it_is_refused_before_anything_is_sent(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await fill(conn, "orders", 20)
    services = conn._lifetime._services
    assert services is not None
    for name, config, why in (
        ("queue", {"retention": "workqueue"}, "has retention='workqueue'"),
        ("interest", {"retention": "interest"}, "has retention='interest'"),
        ("few", {"max_msgs": 10}, "it keeps at most 10 messages and has 0; 20 come"),
        ("small", {"max_bytes": 100}, "it keeps at most 100 bytes"),
        ("single", {"max_msgs_per_subject": 1}, "it keeps at most 1 messages of a type and aggregate"),
        ("silent", {"no_ack": True}, "acknowledges nothing"),
        ("sources", {"sources": [{"name": "orders"}]}, "copies stream 'orders' by itself"),
        ("deaf", {"subjects": ["elsewhere"]}, "does not listen to"),
    ):
        made = {"name": name, "subjects": [name, f"{name}.>"], "storage": "memory"} | config
        await services.api.request(f"STREAM.CREATE.{name}", made)
        assert why in await refused(own_server, "orders", name, "--append")
    await conn.streams.create("shop", eda.StreamOptions(store=True))
    assert "event store" in await refused(own_server, "orders", "shop")
    told = await copied(own_server, "orders", "few", "--allow-discard")
    assert told["stored"] == 20
    assert (await conn.streams.info("few")).events == 10


async def test_copy_when_the_source_removes_its_events_is_refused_and_names_what_works(
    own_server: eda.EmbeddedServer, conn: eda.Conn, queue: str
) -> None:
    for number in range(3):
        await conn.publish("queue", event(number).replace(cause="why", meta={"key": "value"}))
    told = await refused(own_server, "queue", "backup", "--create")
    assert f"has retention={queue!r}" in told
    assert (await conn.streams.info("queue")).events == 3
    await conn.streams.create("backup")
    line = told.split("`")[1].replace("TARGET", "backup").replace("eda ", f"{sys.executable} -m eda.cli ")
    process = await asyncio.create_subprocess_shell(
        line, stdout=subprocess.DEVNULL, env={**os.environ, "EDA_URL": own_server.url}
    )
    assert await process.wait() == 0
    async with contextlib.aclosing(conn.browse("queue")) as lists:
        before = [each async for part in lists for each in part]
    after = await events_of(conn, "backup")

    def told_of(each: eda.Event) -> tuple[Any, ...]:
        return each.id, each.type, each.aggregate, each.time, each.client, each.cause, each.meta, each.data.encode()

    assert len(after) == 3
    assert [told_of(each) for each in after] == [told_of(each) for each in before]
    assert (await conn.streams.info("queue")).events == 3


@pytest.mark.parametrize("how", ["stop", "skip"])
async def test_copy_when_an_event_is_refused_stops_or_skips_it(
    own_server: eda.EmbeddedServer, conn: eda.Conn, how: str
) -> None:
    await conn.streams.create("orders")
    for number in range(10):
        await conn.publish("orders", event(number).replace(data=eda.Bytes(b"x" * (5000 if number == 4 else 5))))
    services = conn._lifetime._services
    assert services is not None
    made = {"name": "small", "subjects": ["small", "small.>"], "max_msg_size": 2000, "storage": "memory"}
    await services.api.request("STREAM.CREATE.small", made)
    code, out, err = await run_eda("copy", "orders", "small", "--addr", own_server.url, "--on-error", how)
    assert code == 1
    assert out.startswith("9 events copied from orders to small")
    assert "1 events were not stored:\n  5 e4: " in err
    said = "not finished: continue with --from 5 --append\n"
    assert err.endswith(said) == (how == "stop")
    assert ("continue with" in err) == (how == "stop")
    if how == "stop":
        again = said.partition("with ")[2].split()
        code, _, err = await run_eda("copy", "orders", "small", "--addr", own_server.url, "--on-error", "skip", *again)
        assert code == 1
        assert "1 events were not stored:\n  5 e4: " in err


async def test_copy_when_messages_are_no_events_says_how_many(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    await fill(conn, "orders", 3)
    services = conn._lifetime._services
    assert services is not None
    await services.wire.request("orders.a.b", b"\xff", timeout=5.0)
    await conn.publish("orders", event(3))
    code, out, _ = await run_eda("copy", "orders", "backup", "--create", "--addr", own_server.url, "--json")
    told = json.loads(out)
    assert (code, told["stored"], told["no_events"]) == (1, 4, 1)


async def test_copy_when_the_source_repeats_an_id_says_what_is_missing(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await conn.streams.create("orders", eda.StreamOptions(dedup_window_s=0.1))
    await conn.publish("orders", event(1), timeout_s=0.05)
    await asyncio.sleep(0.3)  # the duplicate window must pass
    await conn.publish("orders", event(1), timeout_s=0.05)
    assert (await conn.streams.info("orders")).events == 2
    await conn.streams.create("backup")
    code, _, err = await run_eda("copy", "orders", "backup", "--addr", own_server.url)
    assert code == 1
    assert "it recognised their ids as duplicates" in err


async def test_copy_when_the_end_of_the_source_is_deleted_ends(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    await fill(conn, "orders", 10)
    services = conn._lifetime._services
    assert services is not None
    for sequence in (1, 5, 9, 10):
        await services.api.request("STREAM.MSG.DELETE.orders", {"seq": sequence})
    told = await copied(own_server, "orders", "backup", "--create")
    assert told["stored"] == 6
    await conn.streams.purge("orders")
    assert (await copied(own_server, "orders", "none", "--create"))["stored"] == 0


@pytest.mark.parametrize("columns", [80, 200])
async def test_copy_when_in_a_terminal_ends_with_one_line(
    own_server: eda.EmbeddedServer, conn: eda.Conn, columns: int
) -> None:
    await fill(conn, "orders", 2000)
    shown = await run_in_terminal("copy", "orders", "backup", "--create", "--addr", own_server.url, columns=columns)
    assert shown.code == 0
    assert shown.end.splitlines()[-1].startswith("2,000 events copied from orders to backup in ")


async def test_copy_when_types_are_chosen_leaves_out_the_tombstones_of_a_store(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    store = conn.store("shop")
    await store.append("a1", [event(1), event(6)], expected="new")
    await store.append("a2", [event(2)], expected="new")
    await store.forget("a2")
    types = {each.type for each in await events_of(conn, "shop")}
    assert "eda.forgotten" in types
    told = await copied(own_server, "shop", "backup", "--create", "--type", "type-1")
    assert told["stored"] == 1
    assert [(each.type, each.version) for each in await events_of(conn, "backup")] == [("type-1", 0)]
    assert (await conn.streams.info("backup")).options.store is False


@needs_freeze
@pytest.mark.parametrize("packed", [False, True])
async def test_copy_when_the_target_is_away_for_long_is_continued_by_resume(
    own_server: eda.EmbeddedServer, conn: eda.Conn, packed: bool
) -> None:
    n_events = 60_000
    await fill(conn, "orders", n_events)
    async with eda.EmbeddedServer() as second, eda.connect(second.url) as other:
        # Events are given up after half of the duplicate window.
        await other.streams.create("backup", eda.StreamOptions(packed=packed, dedup_window_s=2.0))
        arguments = ["orders", "backup", "--target-addr", second.url, "--addr", own_server.url]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eda.cli", "copy", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await until(lambda: has_events(other, "backup"), timeout_s=60)
        assert second.pid is not None
        freeze(second.pid)
        try:
            _, err = await process.communicate()
        finally:
            os.kill(second.pid, signal.SIGCONT)
        assert process.returncode == 1
        assert "Continue with --resume" in err.decode()
        told = await copied(own_server, *arguments[:-2], "--resume")
        assert (told["duplicates"], told["complete"]) == (0, True)
        assert [each.id for each in await events_of(other, "backup")] == [f"e{number}" for number in range(n_events)]
