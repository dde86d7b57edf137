"""`eda demo` as its users run it: a process of its own, against real servers."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import eda
from support.cli.commands import DEADLINE_S, published, run_eda, run_interrupted

N_EVENTS = 2000

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def assert_passed(report: dict[str, Any]) -> None:
    assert report["ok"] is True
    assert report["events"] == N_EVENTS
    assert report["aggregates"] == 1000
    assert set(report["check"].values()) == {0}
    for side in ("publish", "handle"):
        assert report[side]["events_per_s"] > 0
        assert report[side]["cpu_us_per_event"] > 0
    times = report["publish_to_handler_ms"]
    assert 0 < times["p50"] <= times["p99"] < DEADLINE_S * 1000


async def test_demo_when_embedded_passes_its_check_and_prints_json_only() -> None:
    code, out, err = await run_eda("demo", "--events", str(N_EVENTS), "--json")
    assert (code, err) == (0, "")
    assert_passed(json.loads(out))


async def test_demo_when_packed_passes_the_same_check() -> None:
    code, out, err = await run_eda("demo", "--packed", "--events", str(N_EVENTS), "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert_passed(report)
    assert report["packed"] is True
    code, out, err = await run_eda("demo", "--packed", "--events", "10")
    assert (code, err) == (0, "")
    assert "10 events of 10 aggregates, in packs" in out


async def test_demo_when_given_a_server_uses_it_and_leaves_nothing_there() -> None:
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="test") as conn:
        await conn.publish("mine", eda.Event(type="kept"))
        code, out, err = await run_eda("demo", "--events", str(N_EVENTS), "--json", "--addr", server.url)
        assert (code, err) == (0, "")
        report = json.loads(out)
        assert_passed(report)
        assert str(server.port) in report["server"]
        assert server.token not in out
        assert [(info.name, info.events) for info in await conn.streams.list()] == [("mine", 1)]


async def test_demo_when_given_a_directory_leaves_no_stream_there(tmp_path: Path) -> None:
    addr = f"embedded://{tmp_path.as_uri().removeprefix('file://')}"
    code, out, err = await run_eda("demo", "--events", "1", "--json", "--addr", addr)
    assert (code, err) == (0, "")
    assert json.loads(out)["events"] == 1
    async with eda.connect(addr) as conn:
        assert await conn.streams.list() == []


async def test_demo_when_not_json_prints_bars_and_table() -> None:
    code, out, err = await run_eda("demo", "--events", str(N_EVENTS))
    assert (code, err) == (0, "")
    for text in ("publish ", "handle ", f"{N_EVENTS:,}/{N_EVENTS:,}", "events/s", "client CPU per event", "p50", "p99"):
        assert text in out
    assert "check passed" in out


async def test_demo_when_the_check_fails_says_so_and_ends_with_1() -> None:
    code = "import sys, eda.cli.show as show, eda.cli as cli\n"
    code += "report = show.report_of\n"
    code += "def lie(work, figures, asked):\n    figures.handled['check']['lost'] = 3\n"
    code += "    return report(work, figures, asked)\n"
    code += "show.report_of = lie\ncli.main(sys.argv[1:])\n"
    ended, out, _ = await run_eda("demo", "--events", "10", code=code)
    assert ended == 1
    assert "check failed: 3 lost" in out
    ended, out, _ = await run_eda("demo", "--events", "10", "--json", code=code)
    assert ended == 1
    assert json.loads(out)["ok"] is False


async def test_demo_when_no_server_answers_says_so_in_one_line() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else comes
        taken.bind(("127.0.0.1", 0))
        addr = f"nats://user:very-secret@127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = await run_eda("demo", "--events", "10", "--addr", addr)
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("Error: cannot connect to nats://127.0.0.1:")
    assert "very-secret" not in err


async def test_demo_when_the_token_is_wrong_says_so_in_one_line() -> None:
    async with eda.EmbeddedServer() as server:
        code, out, err = await run_eda("demo", "--json", "--addr", f"nats://wrong-token@127.0.0.1:{server.port}")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "uthorization" in err
    assert "wrong-token" not in err


async def test_demo_when_the_stream_is_deleted_under_it_fails_in_the_end() -> None:
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="test") as conn:
        demo = asyncio.ensure_future(run_eda("demo", "--events", "100000000", "--json", "--addr", server.url))
        await published(conn)
        for info in await conn.streams.list():
            await conn.streams.delete(info.name)
        code, out, err = await demo
        assert (code, out) == (1, "")
        assert "side failed: " in err.splitlines()[-1]
        assert "does not exist" in err.splitlines()[-1]
        assert "Traceback" not in err


@pytest.mark.parametrize("events", ["0", "100000001", "-5", "many"])
async def test_demo_when_events_is_out_of_range_is_refused(events: str) -> None:
    code, out, err = await run_eda("demo", "--events", events)
    assert (code, out) == (2, "")
    assert "--events" in err


async def test_demo_when_the_address_is_no_url_is_refused_in_one_line() -> None:
    code, out, err = await run_eda("demo", "--addr", "http://127.0.0.1")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "http" in err


@posix_only
async def test_demo_when_interrupted_ends_and_deletes_its_stream() -> None:
    async with eda.EmbeddedServer() as server, eda.connect(server.url, client="test") as conn:
        addr = ("--addr", server.url)
        ended = await run_interrupted(conn, "demo", "--events", "100000000", "--json", *addr)
        assert ended == (130, "", "interrupted\n")
        assert await conn.streams.list() == []


async def test_command_when_asked_for_its_version_tells_it() -> None:
    code, out, _ = await run_eda("--version")
    assert code == 0
    assert out.startswith("eda, version ")


@pytest.mark.parametrize("missing", ["click", "rich"])
async def test_command_when_an_extra_is_missing_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from eda.cli import main; main()"
    ended, out, err = await run_eda(code=code)
    assert (ended, out) == (1, "")
    assert err.count("\n") == 1
    assert missing in err
    assert "eda-fast[cli]" in err
