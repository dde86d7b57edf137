"""`eda subs` as a process, against a real server and in a terminal."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, until
from support.cli.commands import run_eda
from support.cli.terminal import run_in_terminal
from support.cursors.member import Keys
from support.packs import publish_pack
from support.subscribing.kept import BOTH, ORDERED, N, fill, handle_all, member, places

LS = {
    "name", "kind", "stream", "position", "lag", "lag_s", "holder", "standbys", "in_flight", "redelivered", "updated",
    "active",
}  # fmt: skip
INFO = LS | {
    "done", "filter", "stream_created", "epoch", "tries", "created", "made_by", "lease_s", "max_ack_pending",
    "max_deliver", "durable", "filtered_by_server", "pulls", "paused_until", "dead",
    "dead_complete",
}  # fmt: skip


@pytest.fixture
def run(server: eda.EmbeddedServer) -> Callable[..., Any]:
    """Run `eda subs`; returns the exit code, the standard output and the standard error."""

    async def run(*arguments: str, **options: Any) -> tuple[int | None, str, str]:
        return await run_eda("subs", *arguments, "--addr", server.url, **options)

    return run


@pytest.fixture
async def filled(conn: eda.Conn, stream: str) -> str:
    """A stream with ten events."""
    await fill(conn, stream)
    return stream


# --- listed ----------------------------------------------------------------------------------------------------------


async def test_ls_when_json_tells_both_kinds_with_holder_standbys_and_lag(
    run: Callable[..., Any], connect: Connect, filled: str
) -> None:
    one, two = await connect(client="one"), await connect(client="two")
    await handle_all(one, filled, name="away", serial=True)
    await handle_all(one, filled, name="shared")
    await fill(one, filled)
    async with (
        member(one, filled, name="open", exclusive=True) as (_, got),
        member(two, filled, name="open", exclusive=True),
    ):
        await until(lambda: len(got) == 20)
        code, out, err = await run("ls", filled, "--json")
        assert (code, err) == (0, "")
        lines = [json.loads(line) for line in out.splitlines()]
        assert all(line.keys() == LS for line in lines)
        away, opened, shared = lines
        assert (away["name"], away["kind"], away["position"], away["lag"]) == ("away", "ordered", 10, 10)
        assert (away["holder"], away["standbys"], away["active"], away["in_flight"]) == (None, 0, False, None)
        assert 0 < away["lag_s"] < 60
        assert (opened["name"], opened["standbys"], opened["active"]) == ("open", 1, True)
        assert opened["holder"].startswith("one-")
        assert (shared["name"], shared["kind"], shared["lag"], shared["in_flight"]) == ("shared", "shared", 10, 0)
        assert (shared["redelivered"], shared["holder"], shared["active"]) == (0, None, False)
        assert all(line["stream"] == filled and line["updated"].endswith("Z") for line in lines)


async def test_ls_when_no_stream_is_given_lists_all_and_cursors_without_a_stream(
    own_server: eda.EmbeddedServer, connect: Connect
) -> None:
    conn = await connect(own_server.url)
    for stream in ("a", "b", "gone"):
        await fill(conn, stream)
        await handle_all(conn, stream, **ORDERED)
    await handle_all(conn, "b", name="m")
    await conn.streams.delete("gone")
    code, out, _ = await run_eda("subs", "ls", "--json", "--addr", own_server.url)
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(each["stream"], each["name"], each["lag"]) for each in lines] == [
        ("a", "n", 0), ("b", "m", 0), ("b", "n", 0), ("gone", "n", None),
    ]  # fmt: skip
    code, out, _ = await run_eda("subs", "ls", "--addr", own_server.url)
    assert "unknown" in out
    for command in (["reset", "gone", "n", "--yes"], ["rewind", "gone", "n", "--first", "--yes"]):
        assert (await run_eda("subs", *command, "--addr", own_server.url))[0] == 1
    code, out, _ = await run_eda("subs", "rm", "gone", "n", "--yes", "--addr", own_server.url)
    assert (code, out) == (0, "subscription 'n' of stream 'gone' was deleted\n")
    assert (await run_eda("subs", "rm", "gone", "n", "--yes", "--addr", own_server.url))[0] == 1


async def test_ls_when_nothing_is_kept_says_so(run: Callable[..., Any], filled: str) -> None:
    code, out, err = await run("ls", filled)
    assert (code, out) == (0, "")
    assert "no kept subscriptions" in err
    code, _, err = await run("ls", f"{filled}-no")
    assert code == 1
    assert "does not exist" in err


async def test_ls_when_there_are_many_subscriptions_is_quick(own_server: eda.EmbeddedServer, connect: Connect) -> None:
    conn = await connect(own_server.url)
    await fill(conn, "orders")
    await handle_all(conn, "orders", **ORDERED)
    client = conn._lifetime._services.wire  # type: ignore[union-attr]
    api = conn._lifetime._services.api  # type: ignore[union-attr]
    consumer = {"ack_policy": "explicit", "deliver_policy": "all"}
    for number in range(150):
        name = f"shared-{number}"
        await api.create_consumer("orders", name, consumer | {"name": name, "durable_name": name})
        cursor = {"v": 1, "seq": 3, "epoch": 1, "holder": "", "tries": 0, "filter": []}
        await client.request(f"$KV.eda-cursors.orders.cursor-{number}", json.dumps(cursor).encode(), timeout=5)
    began = time.process_time()
    started = time.monotonic()
    found = await conn.subscriptions()
    assert len(found) == 301
    assert {each.lag for each in found if each.name.startswith("cursor")} == {7}
    assert {each.lag for each in found if each.name.startswith("shared")} == {10}
    assert time.process_time() - began < 2
    assert time.monotonic() - started < 10
    code, out, _ = await run_eda("subs", "ls", "--json", "--addr", own_server.url)
    assert code == 0
    assert len(out.splitlines()) == 301


async def test_reading_when_members_are_open_disturbs_nothing(
    run: Callable[..., Any], conn: eda.Conn, filled: str, admin: Admin
) -> None:
    async with member(conn, filled) as (sub, got):
        await until(lambda: len(got) == N)
        before = await admin.consumer(filled, "n")
        for command in (["ls", filled], ["info", filled, "n"]):
            assert (await run(*command))[0] == 0
        after = await admin.consumer(filled, "n")
        assert {**before, "ts": 0} == {**after, "ts": 0}
        assert await admin.consumers(filled) == ["n"]
        assert sub.is_active


# --- described -------------------------------------------------------------------------------------------------------


async def test_info_when_json_tells_the_settings_of_each_kind(
    run: Callable[..., Any], conn: eda.Conn, filled: str
) -> None:
    await handle_all(conn, filled, types=["t"], lease_s=9.0)
    await handle_all(conn, filled, name="o", serial=True, aggregate="a")
    shared = json.loads((await run("info", filled, "n", "--json"))[1])
    ordered = json.loads((await run("info", filled, "o", "--json"))[1])
    assert shared.keys() == ordered.keys() == INFO
    assert (shared["done"], shared["lease_s"], shared["durable"], shared["epoch"]) == ("10", 9.0, True, None)
    assert shared["filter"] == [filled, f"{filled}.t.*"]
    assert shared["made_by"] == conn.client
    assert (ordered["done"], ordered["epoch"], ordered["tries"], ordered["lease_s"]) == ("10", 1, 0, None)
    assert ordered["filter"] == [filled, f"{filled}.*.a"]
    for name, parts in {"n": ["lease", "9 s"], "o": ["takeovers", "1"]}.items():
        code, out, _ = await run("info", filled, name)
        assert code == 0
        assert all(part in out for part in parts)


async def test_info_when_it_has_dead_letters_counts_its_own(
    run: Callable[..., Any], conn: eda.Conn, filled: str, logged: Logged
) -> None:
    logged.expect("handler rejected")

    def reject(event: eda.Event) -> None:
        raise eda.Reject("no")

    for name, stop in {"n": 10, "other": 3}.items():
        async with conn.subscribe(filled, reject, name=name, durable=True, serial=True, backfill=True) as sub:
            await until(lambda: sub.stats().dead_lettered >= stop)  # noqa: B023
    shown = json.loads((await run("info", filled, "n", "--json"))[1])
    assert (shown["dead"], shown["dead_complete"]) == (10, True)
    assert "dead letters  10" in (await run("info", filled, "n"))[1]


async def test_info_when_there_is_none_ends_with_1(run: Callable[..., Any], filled: str) -> None:
    for verb in (["info"], ["reset", "--yes"], ["rm", "--yes"], ["rewind", "--first", "--yes"]):
        command, *options = verb
        code, out, err = await run(command, filled, "nobody", *options)
        assert (code, out) == (1, ""), command
        assert "has no kept subscription 'nobody'" in err
        assert "eda views ls" in err


# --- moved -----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("to", "first"), [(["--to", "4"], 4), (["--first"], 1), (["--since", "1h"], 1), (["--to", "1h"], 1)], ids=str
)
async def test_rewind_when_told_where_gives_the_next_member_what_follows(
    run: Callable[..., Any], conn: eda.Conn, filled: str, options: dict[str, Any], to: list[str], first: int
) -> None:
    await handle_all(conn, filled, **options)
    code, out, err = await run("rewind", filled, "n", *to, "--yes", "--json")
    assert (code, err) == (0, "")
    kind = "ordered" if options else "shared"
    assert json.loads(out) == {
        "name": "n", "stream": filled, "kind": kind, "before": "10", "after": str(first - 1)
    }  # fmt: skip
    assert await handle_all(conn, filled, N + 1 - first, **options) == places(first)


@BOTH
async def test_rewind_when_to_the_end_passes_over_all(
    run: Callable[..., Any], conn: eda.Conn, filled: str, options: dict[str, Any]
) -> None:
    await handle_all(conn, filled, **options)
    await run("rewind", filled, "n", "--first", "--yes")
    code, out, _ = await run("rewind", filled, "n", "--end", "--yes")
    assert code == 0
    assert out == f"subscription 'n' of stream '{filled}': the last event that counts as done is 10 now; it was 0\n"
    assert [each.lag for each in await conn.subscriptions(filled)] == [0]


async def test_rewind_when_into_a_pack_goes_on_within_it(
    run: Callable[..., Any], conn: eda.Conn, stream: str, admin: Admin
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(packed=True))
    await publish_pack(admin.js, stream, [eda.Event(type="t", id=f"p{number}") for number in range(4)])
    for name, options in {"o": ORDERED, "s": {}}.items():
        await handle_all(conn, stream, 4, name=name, **options)
    code, out, _ = await run("rewind", stream, "o", "--to", "1.2", "--yes", "--json")
    assert (code, json.loads(out)["after"]) == (0, "1.1")
    assert json.loads((await run("info", stream, "o", "--json"))[1])["done"] == "1.1"
    assert await handle_all(conn, stream, 2, name="o", **ORDERED) == ["1.2", "1.3"]
    code, _, err = await run("rewind", stream, "s", "--to", "1.2", "--yes")
    assert code == 2
    assert "whole packs" in err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "give one of --to, --since, --first and --end"),
        (["--first", "--end"], "give one of"),
        (["--to", "11x"], "Invalid value for '--to': '11x' is not a time"),
        (["--to", ""], "Invalid value for '--to': '' is not a time"),
        (["--to", "foo"], "write a sequence such as 7, or 7.3 in a pack"),
        (["--to", "12"], "ends at 10"),
        (["--to", "2999-01-01"], "--to: 2999-01-01T00:00:00"),
        (["--to", "0"], "--to: sequences begin with 1"),
        (["--to", "3.1"], "is no pack"),
    ],
    ids=str,
)
async def test_rewind_when_the_target_is_wrong_ends_with_2(
    run: Callable[..., Any], conn: eda.Conn, filled: str, options: list[str], why: str
) -> None:
    await handle_all(conn, filled, **ORDERED)
    code, out, err = await run("rewind", filled, "n", *options, "--yes")
    assert (code, out) == (2, "")
    assert why in " ".join(err.split())
    assert [each.position for each in await conn.subscriptions(filled)] == [10]


@BOTH
async def test_change_when_members_are_open_needs_force(
    run: Callable[..., Any], conn: eda.Conn, filled: str, options: dict[str, Any], logged: Logged
) -> None:
    async with member(conn, filled, **options) as (sub, got):
        await until(lambda: len(got) == N)
        for command in (["rewind", filled, "n", "--first"], ["reset", filled, "n"], ["rm", filled, "n"]):
            code, out, err = await run(*command, "--yes")
            assert (code, out) == (2, "")
            assert "has members" in err
            assert options or "was closed or killed within the last 30 s" in " ".join(err.split())
            assert "--force" in err
        await asyncio.sleep(0.1)
        assert (len(got), sub.is_active) == (N, True)


async def test_rewind_when_forced_lets_the_holder_go_on(run: Callable[..., Any], conn: eda.Conn, filled: str) -> None:
    async with member(conn, filled, **ORDERED) as (sub, got):
        await until(lambda: len(got) == N)
        code, _, err = await run("rewind", filled, "n", "--to", "8", "--force", "--yes")
        assert code == 0
        assert "waiting for 5 s" in err
        await until(lambda: len(got) == N + 3)
        assert got[N:] == ["8", "9", "10"]
        assert sub.is_active


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
async def test_rewind_when_interrupted_while_it_waits_has_moved_the_position(
    conn: eda.Conn, filled: str, server: eda.EmbeddedServer, admin: Admin, by: signal.Signals
) -> None:
    async with member(conn, filled, **ORDERED) as (sub, got):
        await until(lambda: len(got) == N)
        command = ["subs", "rewind", filled, "n", "--to", "8", "--force", "--yes", "--addr", server.url]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eda.cli", *command), stderr=subprocess.PIPE
        )
        keys = Keys(admin, filled)

        async def is_moving() -> bool:
            return str((await keys.get() or {}).get("holder")).startswith("eda-move-")

        await until(is_moving, 20)
        process.send_signal(by)
        assert await process.wait() == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[by]
        await until(lambda: len(got) == N + 3, 20)
        assert got[N:] == ["8", "9", "10"]
        assert sub.is_active


# --- forgotten -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("verb", ["reset", "rm"])
async def test_forget_when_nobody_is_open_lets_the_next_member_begin_as_it_says(
    run: Callable[..., Any], conn: eda.Conn, filled: str, options: dict[str, Any], verb: str
) -> None:
    await handle_all(conn, filled, **options)
    code, _, err = await run(verb, filled, "n")
    assert code == 2
    assert "--yes" in err
    code, out, _ = await run(verb, filled, "n", "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"stream": filled, "name": "n", "deleted": True})
    assert await handle_all(conn, filled, **options) == places(1)


async def test_rm_when_the_entry_can_not_be_read_deletes_it(
    run: Callable[..., Any], conn: eda.Conn, filled: str, admin: Admin
) -> None:
    await handle_all(conn, filled, **ORDERED)
    await Keys(admin, filled).put(b"not a cursor")
    code, _, err = await run("info", filled, "n")
    assert code == 2
    assert "holds no cursor" in err
    assert (await run("rm", filled, "n", "--yes"))[0] == 0
    assert await Keys(admin, filled).get() is None


# --- shown -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 200])
async def test_tables_when_on_a_terminal_fit(
    connect: Connect, filled: str, server: eda.EmbeddedServer, columns: int
) -> None:
    conn = await connect(client="a-service-with-a-long-name")
    long = "a-subscription-with-a-name-of-many-characters"
    await handle_all(conn, filled, name=long)
    async with member(conn, filled, **ORDERED) as (_, got):
        await until(lambda: len(got) == N)
        listed = await run_in_terminal("subs", "ls", filled, "--addr", server.url, columns=columns)
        described = await run_in_terminal("subs", "info", filled, "n", "--addr", server.url, columns=columns)
    for shown in (listed, described):
        assert shown.code == 0
        assert max(len(line) for line in shown.text.splitlines()) <= columns
    assert long in listed.text
    titles = ["name", "kind", "position", "lag", "age", "members", "redel.", "updated"]
    important = ["name", "lag", "age", "members"]
    assert listed.text.splitlines()[0].split() == (titles if columns == 200 else important)
    assert "a-service-with-a-lo" in listed.text
    if columns == 200:
        assert "ordered" in listed.text
        assert re.search(r"[\d.]+ m?s ago", listed.text)
        assert "a-service-with-a-long-name " in listed.text
    assert "a-service-with-a-long-name-" in described.text, "the whole holder"


@pytest.mark.parametrize("answer", ["y", "n"])
async def test_rewind_when_on_a_terminal_asks(
    conn: eda.Conn, filled: str, server: eda.EmbeddedServer, answer: str
) -> None:
    await handle_all(conn, filled)
    arguments = ("subs", "rewind", filled, "n", "--to", "5", "--addr", server.url)
    shown = await run_in_terminal(*arguments, keys=[("[y/N]", f"{answer}\n")])
    assert shown.code == (0 if answer == "y" else 1)
    assert [each.position for each in await conn.subscriptions(filled)] == [4 if answer == "y" else 10]
