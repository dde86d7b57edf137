"""`eda graph` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import itertools
import json
import os
import stat
import time
from pathlib import Path

import pytest

import eda
from support.cli.commands import run_eda
from support.cli.dot import parsed_dot
from support.cli.terminal import run_in_terminal


@pytest.fixture
async def conn(shop: eda.Conn) -> eda.Conn:
    """A connection to two streams: placed, paid and sent of one order, and another order."""
    await shop.streams.create("orders")
    await shop.streams.create("billing", eda.StreamOptions(packed=True))
    times = itertools.count(time.time_ns(), 10**7)  # what has the same millisecond has no order among streams

    def event(type_: str, **fields: str) -> eda.Event:
        return eda.Event(type=type_, time=next(times), **fields)

    await shop.publish("orders", event("order-placed", id="placed", aggregate="o-1"))
    async with shop.publisher("billing", pack=eda.Pack()) as publisher:
        await publisher.send(event("payment-asked", id="asked", cause="placed", aggregate="o-1"))
        await publisher.send(event("payment-received", id="paid", cause="asked", aggregate="o-1"))
    await shop.publish("orders", event("parcel-sent", id="sent", cause="paid", aggregate="o-1"))
    await shop.publish("orders", event("order-placed", id="other", aggregate="o-2"))
    return shop


async def lines_of(own_server: eda.EmbeddedServer, *arguments: str) -> list[dict[str, str]]:
    code, out, err = await run_eda("graph", *arguments, "--json", "--addr", own_server.url)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.usefixtures("queue")
async def test_graph_when_the_stream_removes_what_is_acknowledged_changes_nothing(
    own_server: eda.EmbeddedServer, shop: eda.Conn
) -> None:
    async with shop.publisher("queue", pack=eda.Pack()) as publisher:
        for number in range(4):
            await publisher.send(eda.Event(id=f"e{number}", type="made", cause=f"e{number - 1}" if number else ""))
        await publisher.flush()
    await shop.publish("queue", eda.Event(id="last", type="made", cause="e3"))
    shown = await lines_of(own_server, "queue")
    assert [(each["id"], each["cause"]) for each in shown] == [
        ("e0", ""), ("e1", "e0"), ("e2", "e1"), ("e3", "e2"), ("last", "e3"),
    ]  # fmt: skip
    part = await lines_of(own_server, "queue", "--from", "1.1", "--to", "1.2")
    assert [each["id"] for each in part] == ["e1", "e2"]
    info = await shop.streams.info("queue")
    assert (info.events, info.consumers) == (2, 1)


async def test_graph_when_json_has_every_event_and_changes_nothing(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    before = await conn.streams.list()
    events = await lines_of(own_server, "orders", "billing")
    assert {(each["cause"], each["id"]) for each in events} == {
        ("", "placed"), ("placed", "asked"), ("asked", "paid"), ("paid", "sent"), ("", "other"),
    }  # fmt: skip
    assert set(events[0]) == {"id", "cause", "type", "aggregate", "stream", "place", "time", "client"}
    (paid,) = [each for each in events if each["id"] == "paid"]
    assert (paid["stream"], paid["place"], paid["client"]) == ("billing", "1.1", "shop")
    assert await conn.streams.list() == before


@pytest.mark.usefixtures("conn")
async def test_graph_when_a_stream_is_named_twice_has_its_events_once(own_server: eda.EmbeddedServer) -> None:
    events = await lines_of(own_server, "orders", "orders", "--from", "1")
    assert [each["id"] for each in events] == ["placed", "sent", "other"]


@pytest.mark.usefixtures("conn")
@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["orders", "billing", "--id", "paid"], {"placed", "asked", "paid", "sent"}),
        (["orders", "billing", "--id", "other"], {"other"}),
        (["orders", "--id", "sent"], {"sent"}),
        (["orders", "--aggregate", "o-2"], {"other"}),
        (["orders", "--type", "parcel-sent", "--type", "x"], {"sent"}),
        (["orders", "--from", "2", "--to", "2"], {"sent"}),
        (["orders", "--limit", "1"], {"other"}),
        (["orders", "billing", "--from", "1h"], {"placed", "asked", "paid", "sent", "other"}),
    ],
)
async def test_graph_when_options_choose_has_these_events(
    own_server: eda.EmbeddedServer, arguments: list[str], ids: set[str]
) -> None:
    code, out, _ = await run_eda("graph", *arguments, "--json", "--addr", own_server.url)
    assert code == 0
    assert {json.loads(line)["id"] for line in out.splitlines()} == ids


@pytest.mark.usefixtures("conn")
async def test_graph_when_the_id_is_unknown_ends_with_1(own_server: eda.EmbeddedServer, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, err = await run_eda("graph", "orders", "--id", "no", "--html", str(page), "--addr", own_server.url)
    assert (code, out, err) == (1, "", "Error: no event has the id 'no'\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("conn")
async def test_graph_when_dot_can_be_parsed(own_server: eda.EmbeddedServer, tmp_path: Path) -> None:
    code, out, err = await run_eda("graph", "orders", "billing", "--dot", "--addr", own_server.url)
    assert (code, err) == (0, "")
    assert len(parsed_dot(out).get_edges()) == 3
    code, _, _ = await run_eda(
        "graph", "orders", "billing", "--dot", "-o", str(tmp_path / "g.dot"), "--addr", own_server.url
    )
    assert code == 0
    assert (tmp_path / "g.dot").read_text() == out
    assert await run_eda("graph", "orders", "billing", "--addr", own_server.url) == (0, out, "")


@pytest.mark.usefixtures("conn")
async def test_graph_when_cypher_has_a_statement_for_each_event(own_server: eda.EmbeddedServer) -> None:
    code, out, err = await run_eda("graph", "orders", "billing", "--cypher", "--addr", own_server.url)
    assert (code, err) == (0, "")
    assert sum(line.startswith("MERGE (e:Event {id: ") for line in out.splitlines()) == 5
    assert out.count("MERGE (c)-[:CAUSED]->(e);") == 3


@pytest.mark.usefixtures("conn")
async def test_graph_when_html_writes_one_whole_file(own_server: eda.EmbeddedServer, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, err = await run_eda("graph", "orders", "billing", "--html", str(page), "--addr", own_server.url)
    assert (code, out, err) == (0, "", "")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")
    assert text.count("<path ") == 3
    assert os.listdir(tmp_path) == ["page.html"]
    assert stat.S_IMODE(page.stat().st_mode) & 0o444 == 0o444
    code, out, _ = await run_eda("graph", "orders", "billing", "--html", "-", "--addr", own_server.url)
    assert (code, out) == (0, text)


@pytest.mark.usefixtures("conn")
async def test_graph_when_a_page_has_a_limit_shows_the_newest_and_says_so(
    own_server: eda.EmbeddedServer, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    arguments = ["graph", "orders", "billing", "--html", str(page), "--addr", own_server.url]
    code, _, err = await run_eda(*arguments, "--limit", "2")
    assert (code, err) == (0, "these are the newest 2 of 5 events; choose others with --from and --to\n")
    text = page.read_text(encoding="utf-8")
    assert "the newest 2 of 5 events" in text
    assert "payment-asked" not in text
    assert "parcel-sent" in text


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--dot", "--cypher"], "Choose one form"),
        (["--html", "x", "-o", "y"], "leave out --output"),
        (["--html", ""], "--html needs the name of a file"),
        (["--output", ""], "--output needs the name of a file"),
        (["other", "--dot", "--from", "3"], "must be times"),
        (["--html", "x", "--limit", "5001"], "at most 5,000 events"),
    ],
)
async def test_graph_when_used_wrongly_says_what_works(arguments: list[str], why: str) -> None:
    code, _, err = await run_eda("graph", "orders", *arguments)
    assert code == 2
    assert why in " ".join(err.split())


@pytest.mark.usefixtures("conn")
async def test_graph_when_the_file_can_not_be_written_says_so(own_server: eda.EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "page.html"
    code, _, err = await run_eda("graph", "orders", "--html", str(path), "--addr", own_server.url)
    assert code == 2
    assert err == f"Error: {path} can't be written: No such file or directory\n"


@pytest.mark.usefixtures("conn")
@pytest.mark.parametrize("columns", [80, 200])
async def test_graph_when_in_a_terminal_prints_the_text(own_server: eda.EmbeddedServer, columns: int) -> None:
    shown = await run_in_terminal("graph", "orders", "--dot", "--addr", own_server.url, columns=columns)
    assert shown.code == 0
    assert shown.text.startswith("digraph causes {")
