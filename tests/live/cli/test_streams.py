"""`eda streams` as a process, against a real server and in a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import eda
from helpers import Admin
from support.cli.commands import run_eda
from support.cli.terminal import CTRL_C, CTRL_D, run_in_terminal
from support.packs import publish_pack
from support.subscribing.kept import ORDERED, fill, handle_all

LS = {
    "name", "events", "bytes", "first_sequence", "last_sequence", "first_time", "last_time", "created", "storage",
    "replicas", "retention", "packed", "store", "consumers",
}  # fmt: skip
INFO = LS | {
    "subjects", "max_age_s", "max_bytes", "max_events", "dedup_window_s", "compression", "discard", "atomic",
    "fast_ingest", "mirror", "sources", "no_ack", "sealed", "deny_delete", "deny_purge", "max_events_per_subject",
    "max_event_bytes", "max_consumers", "subscriptions",
}  # fmt: skip


@pytest.fixture
def run(server: eda.EmbeddedServer) -> Callable[..., Any]:
    """Run `eda streams`; returns the exit code, the standard output and the standard error."""

    async def run(*arguments: str, **options: Any) -> tuple[int | None, str, str]:
        return await run_eda("streams", *arguments, "--addr", server.url, **options)

    return run


async def test_create_when_every_setting_is_given_makes_such_a_stream(
    run: Callable[..., Any], conn: eda.Conn, stream: str
) -> None:
    code, out, err = await run(
        "create", stream, "--packed", "--storage", "memory", "--replicas", "1", "--max-age", "7d",
        "--max-bytes", "10MB", "--max-events", "1000", "--dedup-window", "90s", "--compression", "none",
        "--discard", "new", "--no-atomic", "--fast-ingest", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert (await conn.streams.info(stream)).options == eda.StreamOptions(
        packed=True, storage="memory", max_age_s=7 * 86400, max_bytes=10**7, max_events=1000, dedup_window_s=90.0,
        discard="new", atomic=False, fast_ingest=True,
    )  # fmt: skip
    shown = json.loads(out)
    assert shown.keys() == INFO
    assert (shown["name"], shown["max_age_s"], shown["packed"], shown["events"]) == (stream, 604800.0, True, 0)
    assert (shown["first_time"], shown["last_time"], shown["subscriptions"]) == (None, None, [])


async def test_create_when_it_exists_differently_ends_with_2(
    run: Callable[..., Any], conn: eda.Conn, stream: str
) -> None:
    assert (await run("create", stream))[0] == 0
    code, out, _ = await run("create", stream)
    assert code == 0
    assert stream in out
    code, out, err = await run("create", stream, "--max-events", "5")
    assert (code, out) == (2, "")
    assert err == f"Error: stream '{stream}' exists already, with other settings: `eda streams update` changes it\n"
    code, _, err = await run("create", "a b")
    assert code == 2
    assert "must be 1 to 64" in err


@pytest.mark.parametrize(
    "arguments",
    [["--max-age", "7"], ["--max-bytes", "10x"], ["--discard", "all"], ["--max-bytes", "0"], ["--dedup-window", "0s"]],
    ids=str,
)
async def test_create_when_a_value_is_wrong_says_what_works(
    run: Callable[..., Any], stream: str, arguments: list[str]
) -> None:
    code, _, err = await run("create", stream, *arguments)
    assert code == 2
    assert arguments[0] in err


async def test_info_when_json_tells_all_that_it_holds_and_allows(
    run: Callable[..., Any], conn: eda.Conn, stream: str
) -> None:
    await fill(conn, stream)
    await handle_all(conn, stream, **ORDERED)
    code, out, err = await run("info", stream, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown.keys() == INFO
    assert (shown["events"], shown["first_sequence"], shown["last_sequence"]) == (10, 1, 10)
    info = await conn.streams.info(stream)
    assert shown["first_time"] <= shown["last_time"]
    assert shown["created"].endswith("Z")
    assert (shown["atomic"], shown["fast_ingest"]) == (info.atomic, info.fast_ingest)
    assert [(each["name"], each["position"]) for each in shown["subscriptions"]] == [("n", 10)]


async def test_info_when_there_is_no_stream_ends_with_1(run: Callable[..., Any], stream: str) -> None:
    for arguments in (["info"], ["update", "--max-events", "3"], ["purge", "--yes"], ["rm", "--yes"]):
        verb, *others = arguments
        code, out, err = await run(verb, stream, *others)
        assert (code, out) == (1, "")
        assert f"stream '{stream}' does not exist" in err or stream in err


async def test_ls_when_json_prints_a_line_for_each_stream(own_server: eda.EmbeddedServer, connect: Any) -> None:
    code, out, err = await run_eda("streams", "ls", "--addr", own_server.url)
    assert (code, out) == (0, "")
    assert "no streams" in err
    conn = await connect(own_server.url)
    await conn.streams.create("packed", eda.StreamOptions(packed=True))
    await fill(conn, "orders")
    code, out, _ = await run_eda("streams", "ls", "--json", "--addr", own_server.url)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert all(line.keys() == LS for line in lines)
    assert [(each["name"], each["events"], each["packed"]) for each in lines] == [
        ("orders", 10, False),
        ("packed", 0, True),
    ]


async def test_update_when_single_settings_are_given_keeps_the_others(
    run: Callable[..., Any], conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=500, max_age_s=3600))
    code, out, _ = await run("update", stream, "--max-age", "none", "--discard", "new", "--json")
    assert code == 0
    shown = json.loads(out)
    assert (shown["max_age_s"], shown["max_events"], shown["discard"]) == (None, 500, "new")
    code, _, err = await run("update", stream)
    assert code == 2
    assert "at least one setting" in err


async def test_update_when_a_stream_over_its_limit_discards_old_events_from_now_on_asks_first(
    run: Callable[..., Any], conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream)
    for _ in range(5):
        await conn.publish(stream)
    code, _, err = await run("update", stream, "--discard", "new", "--max-events", "2")
    assert (code, err) == (0, "")
    code, _, err = await run("update", stream, "--discard", "old")
    assert code == 2
    assert "keeps only the last 2 then" in err
    assert (await conn.streams.info(stream)).events == 5
    code, _, _ = await run("update", stream, "--discard", "old", "--yes")
    assert (code, (await conn.streams.info(stream)).events) == (0, 2)


@pytest.mark.parametrize("limit", [["--max-events", "4"], ["--max-bytes", "100"]], ids=str)
async def test_update_when_a_limit_removes_events_asks_first(
    run: Callable[..., Any], conn: eda.Conn, stream: str, limit: list[str]
) -> None:
    await fill(conn, stream)
    code, _, err = await run("update", stream, *limit)
    assert code == 2
    assert "and keeps only the last" in err
    assert "--yes" in err
    assert (await conn.streams.info(stream)).events == 10
    assert (await run("update", stream, *limit, "--yes"))[0] == 0
    assert (await conn.streams.info(stream)).events < 10


@pytest.mark.parametrize(
    ("which", "left"),
    [([], 0), (["--before", "4"], 8), (["--keep", "2"], 2), (["--aggregate", "a"], 1), (["--aggregate", "b"], 10)],
    ids=str,
)
async def test_purge_when_told_which_removes_those(
    run: Callable[..., Any], conn: eda.Conn, stream: str, which: list[str], left: int
) -> None:
    await fill(conn, stream)
    await conn.publish(stream, eda.Event(type="t", aggregate="b"))
    code, out, _ = await run("purge", stream, *which, "--yes", "--json")
    assert code == 0
    assert (await conn.streams.info(stream)).events == left
    assert json.loads(out) == {"stream": stream, "purged": 11 - left}


async def test_purge_when_subscriptions_are_behind_names_them(
    run: Callable[..., Any], conn: eda.Conn, stream: str
) -> None:
    await fill(conn, stream)
    await handle_all(conn, stream, **ORDERED)
    await fill(conn, stream)
    code, _, err = await run("purge", stream)
    assert code == 2
    assert "n (10)" in err
    assert "all 20 messages" in err
    code, _, err = await run("purge", stream, "--before", "11")
    assert "n (10)" not in err
    assert (await conn.streams.info(stream)).events == 20


async def test_purge_when_the_wrong_events_would_go_is_refused(
    run: Callable[..., Any], conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await publish_pack(admin.js, stream, [eda.Event(type="t", aggregate=name) for name in "ab"])
    code, _, err = await run("purge", stream, "--aggregate", "a", "--yes")
    assert code == 2
    assert "only whole packs" in err
    code, _, err = await run("purge", stream, "--before", "2", "--keep", "1", "--yes")
    assert code == 2
    assert "can't be combined" in err
    await conn.streams.delete(stream)
    await conn.streams.create(stream, eda.StreamOptions(store=True))
    for which in (["--before", "1"], ["--keep", "1"], ["--aggregate", "a"]):
        code, _, err = await run("purge", stream, *which, "--yes")
        assert code == 2
        assert "belongs to event stores" in err


async def test_rm_when_told_so_deletes_cursors_too(run: Callable[..., Any], conn: eda.Conn, stream: str) -> None:
    await fill(conn, stream)
    await handle_all(conn, stream, **ORDERED)
    await handle_all(conn, stream, name="shared")
    code, _, err = await run("rm", stream)
    assert code == 2
    for part in ("subscriptions shared are deleted", "ordered subscriptions n stay", "with 10 messages", "--yes"):
        assert part in err
    code, out, err = await run("rm", stream, "--yes", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"stream": stream, "events": 10, "shared": 1, "ordered": 1, "cursors_deleted": 0}
    assert [each.name for each in await conn.subscriptions() if each.stream == stream] == ["n"]
    await fill(conn, stream)
    code, out, _ = await run("rm", stream, "--yes", "--cursors", "--json")
    assert json.loads(out) == {"stream": stream, "events": 10, "shared": 0, "ordered": 1, "cursors_deleted": 1}
    assert [each.name for each in await conn.subscriptions() if each.stream == stream] == []


@pytest.mark.parametrize("retention", ["limits", "interest", "workqueue"])
async def test_info_when_events_are_removed_after_handling_says_so(
    run: Callable[..., Any], admin: Admin, stream: str, retention: str
) -> None:
    await admin.js.add_stream(name=stream, subjects=[f"{stream}.>"], retention=retention)
    code, out, _ = await run("info", stream)
    assert code == 0
    assert (f"{retention}: an event is removed" in " ".join(out.split())) == (retention != "limits")


@pytest.mark.parametrize("answer", ["y", "n"])
async def test_rm_when_on_a_terminal_asks(conn: eda.Conn, stream: str, server: eda.EmbeddedServer, answer: str) -> None:
    await fill(conn, stream)
    arguments = ("streams", "rm", stream, "--addr", server.url)
    shown = await run_in_terminal(*arguments, keys=[("[y/N]", f"{answer}\n")])
    assert f"Delete stream '{stream}' with 10 messages?" in " ".join(shown.text.split())
    is_there = stream in [each.name for each in await conn.streams.list()]
    assert (shown.code, is_there) == ((0, False) if answer == "y" else (1, True))


@pytest.mark.parametrize(
    ("key", "code", "said"), [(CTRL_C, 130, "interrupted"), (CTRL_D, 1, "nothing was changed")], ids=["c", "d"]
)
async def test_rm_when_the_question_is_ended_by_a_key_changes_nothing(
    conn: eda.Conn, stream: str, server: eda.EmbeddedServer, key: str, code: int, said: str
) -> None:
    await fill(conn, stream)
    shown = await run_in_terminal("streams", "rm", stream, "--addr", server.url, keys=[("[y/N]", key)])
    assert (shown.code, shown.text.split("\n")[-1]) == (code, said)
    assert (await conn.streams.info(stream)).events == 10


@pytest.mark.parametrize("columns", [80, 200])
async def test_tables_when_on_a_terminal_fit(
    conn: eda.Conn, stream: str, server: eda.EmbeddedServer, columns: int
) -> None:
    long = f"{stream}-{'x' * (55 - len(stream))}"
    await conn.streams.create(long, eda.StreamOptions(packed=True, max_age_s=86400, max_bytes=10**9))
    try:
        await fill(conn, long)
        await handle_all(conn, long, **ORDERED)
        listed = await run_in_terminal("streams", "ls", "--addr", server.url, columns=columns)
        assert listed.code == 0
        assert listed.text.splitlines()[0].split()[:3] == ["name", "events", "size"]
        assert "file, packed" in listed.text or columns == 80
        described = await run_in_terminal("streams", "info", long, "--addr", server.url, columns=columns)
        assert described.code == 0
        for part in ("1 replica", "24 h of age, 1 GB; old events are removed", "fast ingest, packs", "ordered"):
            assert part in described.text
        for shown in (listed, described):
            assert max(len(line) for line in shown.text.splitlines()) <= columns
            assert long in shown.text
    finally:
        await conn.delete_subscription(long, "n")
        await conn.streams.delete(long)


async def test_ls_when_names_are_hostile_shows_no_control_characters(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await admin.js.add_stream(name=stream, subjects=["\x1b[31m.x"])
    shown = await run_in_terminal("streams", "info", stream, "--addr", server.url)
    assert b"\x1b[31m" not in shown.raw
    assert "\\x1b[31m.x" in shown.text
