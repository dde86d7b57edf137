"""`eda store cat` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys

import pytest

import eda
from support.cli.commands import DEADLINE_S, run_eda


@pytest.fixture
async def conn(shop: eda.Conn) -> eda.Conn:
    await shop.store("orders").append(
        "4711",
        [eda.Event(type=f"item-{n}", data=eda.JSON({"n": n}), cause="c1" if n == 2 else "") for n in (1, 2, 3)],
        expected="new",
        command_id="req-81",
    )
    return shop


def cat(own_server: eda.EmbeddedServer, *arguments: str) -> list[str]:
    return ["store", "cat", "--addr", own_server.url, *arguments]


async def test_cat_when_json_prints_every_event_and_changes_nothing(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    before = await conn.streams.list()
    code, out, err = await run_eda(*cat(own_server, "orders", "4711", "--json"))
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert [(each["version"], each["type"], each["data"]) for each in events] == [
        (n, f"item-{n}", {"n": n}) for n in (1, 2, 3)
    ]
    assert [each["cause"] for each in events] == ["", "c1", ""]
    assert {each["client"] for each in events} == {"shop"}
    assert all(each["id"].startswith("req-81.") for each in events)
    assert set(events[0]) == {
        *("stream", "aggregate", "version", "sequence", "index", "type", "id", "time", "ack_time", "cause"),
        *("client", "schema", "meta", "encoding", "data"),
    }
    assert await conn.streams.list() == before


async def test_cat_when_not_json_prints_a_text_for_people(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    code, out, err = await run_eda(*cat(own_server, "orders", "4711"))
    assert (code, err) == (0, "")
    for text in ("     1  ", "item-3", "cause=c1", '{"n": 2}', "id=req-81."):
        assert text in out


@pytest.mark.usefixtures("conn")
@pytest.mark.parametrize(("after", "versions"), [("0", [1, 2, 3]), ("2", [3]), ("3", []), ("99", [])])
async def test_cat_when_after_a_version_prints_what_follows(
    own_server: eda.EmbeddedServer, after: str, versions: list[int]
) -> None:
    code, out, err = await run_eda(*cat(own_server, "orders", "4711", "--json", "--after", after))
    assert (code, err) == (0, "")
    assert [json.loads(line)["version"] for line in out.splitlines()] == versions


async def test_cat_when_there_is_no_such_aggregate_ends_with_1(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    for options in ([], ["--json"], ["--after", "5"]):
        code, out, err = await run_eda(*cat(own_server, "orders", "4712", *options))
        assert (code, out) == (1, "")
        assert err == "Error: stream 'orders' has no events of aggregate '4712'\n"
    await conn.store("orders").forget("4711")
    code, out, err = await run_eda(*cat(own_server, "orders", "4711"))
    assert (code, out) == (1, "")
    assert err == "Error: aggregate '4711' of stream 'orders' was forgotten\n"


async def test_cat_when_the_stream_is_no_store_ends_with_2(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    code, out, err = await run_eda(*cat(own_server, "nothing", "4711"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "nothing" in err
    assert "does not exist" in err
    await conn.publish("plain", eda.Event(type="t", aggregate="4711"))
    code, out, err = await run_eda(*cat(own_server, "plain", "4711"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "plain" in err
    code, out, err = await run_eda(*cat(own_server, "no such name", "4711"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, err = await run_eda(*cat(own_server, "orders", ""))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert {info.name for info in await conn.streams.list()} == {"orders", "plain"}


async def test_cat_when_no_server_answers_says_so_in_one_line() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else comes
        taken.bind(("127.0.0.1", 0))
        addr = f"nats://user:very-secret@127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = await run_eda("store", "cat", "orders", "4711", "--addr", addr)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("Error: cannot connect to nats://127.0.0.1:")
    assert "very-secret" not in err


@pytest.mark.usefixtures("conn")
async def test_cat_when_no_address_is_given_takes_that_of_the_environment(
    own_server: eda.EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDA_URL", own_server.url)
    code, out, err = await run_eda("store", "cat", "orders", "4711", "--after", "2", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["version"] == 3


@pytest.mark.parametrize("arguments", [["orders"], ["orders", "4711", "--after", "-1"], ["orders", "4711", "--aftr"]])
async def test_cat_when_the_arguments_are_wrong_ends_with_2(arguments: list[str]) -> None:
    code, out, err = await run_eda("store", "cat", *arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
async def test_cat_when_its_reader_has_gone_ends_quietly(
    own_server: eda.EmbeddedServer, conn: eda.Conn, options: list[str]
) -> None:
    big = eda.Event(type="big", data=eda.String("x" * 200_000))
    await conn.store("orders").append("4711", [big, big], expected=3)
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", *cat(own_server, "orders", "4711", *options)),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    async with asyncio.timeout(DEADLINE_S):
        _, err = await process.communicate()
    assert process.returncode == 1
    assert err == b""
