"""`eda dead` as its users run it: a process of its own, against a real server."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from typing import Any

import pytest

import eda
from eda._codec import encode_event
from helpers import until
from support.cli.commands import run_eda
from support.cli.terminal import run_in_terminal
from support.dead_letters.letters import bury, died

FIELDS = {
    *("sequence", "dead_letter", "stream", "subscription", "reason", "error", "attempts", "time", "place"),
    *("event_sequence", "event_index", "event_id", "type", "aggregate", "bytes", "omitted_bytes", "no_event"),
}


@pytest.fixture
async def conn(shop: eda.Conn) -> eda.Conn:
    await shop.streams.create("orders")
    return shop


async def bury_some(conn: eda.Conn) -> None:
    """Store five letters: of two subscriptions, with the three reasons, one of a pack's event."""
    paid = died(1, aggregate="o-1", data=eda.JSON({"total": 12}), meta={"who": "me"})
    await bury(conn, "orders", 1, payload=encode_event(paid), error="the card was\x1b[31m refused", aggregate="o-1")
    await bury(conn, "orders", 2, name="shipping", reason="rejected", error="no such street")
    await bury(conn, "orders", 3, reason="undecodable", payload=b"\xff\xfe", event_type="", error="not an event")
    await bury(conn, "orders", 4, index=3)
    await bury(conn, "orders", 5, stream="elsewhere")


def at(own_server: eda.EmbeddedServer, *arguments: str) -> list[str]:
    return ["dead", *arguments, "--addr", own_server.url]


async def lines_of(own_server: eda.EmbeddedServer, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    ended, out, err = await run_eda(*at(own_server, *arguments, "--json"))
    assert (ended, err) == (code, "")
    return [json.loads(line) for line in out.splitlines()]


async def test_ls_when_json_prints_every_letter_and_changes_nothing(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await bury_some(conn)
    before = await conn.streams.list()
    letters = await lines_of(own_server, "ls", "orders")
    assert all(set(each) == FIELDS for each in letters)
    assert [(each["sequence"], each["place"], each["subscription"], each["reason"]) for each in letters] == [
        (1, "1", "billing", "attempts"),
        (2, "2", "shipping", "rejected"),
        (3, "3", "billing", "undecodable"),
        (4, "4.3", "billing", "attempts"),
    ]
    first, _, foreign, packed = letters
    assert (first["error"], first["attempts"], first["event_id"]) == ("the card was\x1b[31m refused", 3, "e1")
    assert (first["type"], first["aggregate"], first["no_event"]) == ("type-1", "o-1", None)
    assert first["time"].endswith("Z")
    assert (foreign["type"], foreign["aggregate"], foreign["bytes"]) == (None, None, 2)
    assert foreign["no_event"].startswith("it is not an event")
    assert (packed["event_sequence"], packed["event_index"]) == (4, 3)
    assert await conn.streams.list() == before


@pytest.mark.parametrize(
    ("arguments", "sequences"),
    [
        (["--name", "billing"], [1, 3, 4]),
        (["--reason", "rejected"], [2]),
        (["--type", "type-1", "--type", "type-2"], [1, 2]),
        (["--since", "1h"], [1, 2, 3, 4]),
        (["--since", "2099-01-01"], []),
        (["--limit", "2"], [1, 2]),
        (["--others"], [1, 2, 3, 4, 5]),
    ],
)
async def test_ls_when_options_choose_prints_these(
    own_server: eda.EmbeddedServer, conn: eda.Conn, arguments: list[str], sequences: list[int]
) -> None:
    await bury_some(conn)
    assert [each["sequence"] for each in await lines_of(own_server, "ls", "orders", *arguments)] == sequences


async def test_ls_when_summary_counts_by_subscription_and_reason(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await bury_some(conn)
    groups = await lines_of(own_server, "ls", "orders", "--summary")
    assert [(each["subscription"], each["reason"], each["letters"]) for each in groups] == [
        ("billing", "attempts", 2),
        ("billing", "undecodable", 1),
        ("shipping", "rejected", 1),
    ]
    assert set(groups[0]) == {*("stream", "subscription", "reason", "letters", "first_time", "last_time", "last_error")}
    assert groups[0]["first_time"] < groups[0]["last_time"]


@pytest.mark.parametrize("columns", [80, 200])
async def test_ls_when_in_a_terminal_fits_it_and_shows_no_control_characters(
    own_server: eda.EmbeddedServer, conn: eda.Conn, columns: int
) -> None:
    await bury_some(conn)
    shown = await run_in_terminal(*at(own_server, "ls", "orders"), columns=columns)
    assert shown.code == 0
    header, *rows = shown.text.splitlines()
    wide = ["attempts"] if columns == 200 else []
    aggregate = ["aggregate"] if columns == 200 else []
    assert header.split() == ["seq", "age", "subscription", "reason", *wide, "event", "type", *aggregate, "error"]
    assert rows.pop() == "The dead-letter stream has 1 other messages. List them with --others."
    assert len(rows) == 4
    assert all(word in rows[0] for word in ("billing", "attempts", "type-1", "the card"))
    assert rows[3].split()[-1] == "no"
    assert b"[31m" not in shown.raw.replace(b"x1b[31m", b"")
    summary = await run_in_terminal(*at(own_server, "ls", "orders", "--summary"), columns=columns)
    assert len(summary.text.splitlines()) == 4


async def test_ls_when_there_are_more_than_the_limit_says_so(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    await bury_some(conn)
    code, out, err = await run_eda(*at(own_server, "ls", "orders", "--limit", "2"))
    assert (code, len(out.splitlines())) == (0, 3)
    assert err == "These are the first 2. See more with --limit, or count them with --summary.\n"


async def test_ls_when_there_are_other_messages_says_how_many(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    await bury_some(conn)
    code, out, err = await run_eda(*at(own_server, "ls", "orders"))
    assert (code, len(out.splitlines())) == (0, 5)
    assert err == "The dead-letter stream has 1 other messages. List them with --others.\n"
    code, out, err = await run_eda(*at(own_server, "ls", "orders", "--others"))
    assert (code, len(out.splitlines()), err) == (0, 6, "")


async def test_ls_when_there_are_none_says_so(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    code, out, err = await run_eda(*at(own_server, "ls", "orders"))
    assert (code, out) == (0, "")
    assert err.startswith("stream orders has no dead letters: there is no stream orders-dead\n")
    await conn.streams.create("orders-dead")
    assert await run_eda(*at(own_server, "ls", "orders")) == (0, "", "no dead letters\n")
    code, out, err = await run_eda(*at(own_server, "ls", "orders-dead"))
    assert "name the stream that they come from" in err
    code, out, err = await run_eda(*at(own_server, "ls", "nowhere"))
    assert (code, out) == (2, "")
    assert "nowhere" in err


async def test_show_when_json_has_everything(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    await bury_some(conn)
    (letter,) = await lines_of(own_server, "show", "orders", "1")
    assert set(letter) == FIELDS | {"subject", "headers", "payload_base64", "event"}
    assert letter["event"]["data"] == {"total": 12}
    assert (letter["event"]["meta"], letter["event"]["id"]) == ({"who": "me"}, "e1")
    (packed,) = await lines_of(own_server, "show", "orders", "4")
    assert (packed["event_index"], packed["event"]["sequence"], packed["event"]["index"]) == (3, 4, 3)
    (foreign,) = await lines_of(own_server, "show", "orders", "3")
    assert (foreign["event"], base64.b64decode(foreign["payload_base64"])) == (None, b"\xff\xfe")
    code, out, err = await run_eda(*at(own_server, "show", "orders", "99"))
    assert (code, out, err) == (1, "", "Error: stream orders-dead has no message with the sequence 99\n")


async def test_show_when_no_float_holds_a_number_shows_it_as_stored(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    data = eda.Data.from_encoded("json", b'{"a":1e400,"b":0.1000000000000000055}')
    await bury(conn, "orders", 1, payload=encode_event(died(1, data=data)))
    code, out, err = await run_eda(*at(own_server, "show", "orders", "1", "--json"))
    assert (code, err) == (0, "")
    assert '"data":{"a":1e400,"b":0.1000000000000000055}' in out
    code, out, err = await run_eda(*at(own_server, "show", "orders", "1"))
    assert (code, err) == (0, "")
    assert '{\n  "a": 1e400,\n  "b": 0.1000000000000000055\n}\n' in out


@pytest.mark.parametrize(
    "arguments", [("show", "orders", "1"), ("replay", "orders", "n"), ("drop", "orders", "--all")], ids=str
)
async def test_command_when_there_is_no_dead_letter_stream_ends_with_1(
    own_server: eda.EmbeddedServer, conn: eda.Conn, arguments: tuple[str, ...]
) -> None:
    code, _, err = await run_eda(*at(own_server, *arguments))
    assert code == 1
    assert err.startswith("stream orders has no dead letters: there is no stream orders-dead\n")
    command, _, *more = arguments
    code, out, err = await run_eda(*at(own_server, command, "nowhere", *more))
    assert (code, out) == (2, "")
    assert "stream 'nowhere' does not exist" in err


@pytest.mark.parametrize("columns", [80, 200])
async def test_show_when_in_a_terminal_is_for_people(
    own_server: eda.EmbeddedServer, conn: eda.Conn, columns: int
) -> None:
    await bury_some(conn)
    shown = await run_in_terminal(*at(own_server, "show", "orders", "1"), columns=columns)
    assert shown.code == 0
    lines = [line.split(maxsplit=1) for line in shown.text.splitlines() if line]
    assert ["error", "the card was\\x1b[31m refused"] in lines
    assert ['"total":', "12"] in lines
    shown = await run_in_terminal(*at(own_server, "show", "orders", "3"), columns=columns)
    assert "2 B: fffe" in shown.text


async def test_replay_when_done_tells_how_many_and_how_many_stayed(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await bury_some(conn)
    (told,) = await lines_of(own_server, "replay", "orders", "billing", "--seq", "4")
    assert told == {"stream": "orders", "subscription": "billing", "replayed": 1, "stayed": 0}
    code, out, err = await run_eda(*at(own_server, "replay", "orders", "billing"))
    assert (code, out) == (1, "1 replayed to billing\n")
    assert err == "1 stayed in orders-dead: they can't be replayed. `eda dead ls` shows them.\n"
    assert (await conn.streams.info("orders")).events == 2
    assert await run_eda(*at(own_server, "replay", "orders", "shipping", "--limit", "5")) == (
        0,
        "1 replayed to shipping\n",
        "",
    )


async def test_replay_when_there_are_no_letters_of_the_name_says_so_and_ends_with_1(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    said = "stream orders has no dead letters of subscription nobody\n"
    code, out, err = await run_eda(*at(own_server, "replay", "orders", "nobody"))
    assert (code, out, err.endswith(said)) == (1, "0 replayed to nobody\n", True)  # there is no such stream yet
    await bury_some(conn)
    assert await run_eda(*at(own_server, "replay", "orders", "nobody")) == (1, "0 replayed to nobody\n", said)
    assert await run_eda(*at(own_server, "replay", "orders", "nobody", "--limit", "5", "--json")) == (
        1,
        '{"stream": "orders", "subscription": "nobody", "replayed": 0, "stayed": null}\n',
        said,
    )


async def test_replay_when_a_sequence_is_not_there_changes_nothing(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await bury_some(conn)
    code, out, err = await run_eda(*at(own_server, "replay", "orders", "billing", "--seq", "1", "--seq", "2"))
    assert (code, out) == (2, "")
    assert err == "Error: stream 'orders-dead' has no dead letter of 'billing' with the sequence 2\n"
    assert (await conn.streams.info("orders")).events == 0


async def test_drop_when_yes_removes_the_chosen_letters(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    await bury_some(conn)
    (told,) = await lines_of(own_server, "drop", "orders", "--name", "billing", "--reason", "attempts", "--yes")
    assert told == {"stream": "orders", "dropped": 2}
    assert [each["sequence"] for each in await lines_of(own_server, "ls", "orders", "--others")] == [2, 3, 5]
    code, _, err = await run_eda(*at(own_server, "drop", "orders", "--seq", "5", "--yes"))
    assert (code, err) == (1, "there are no such dead letters\n")
    assert (await run_eda(*at(own_server, "drop", "orders", "--all", "--yes")))[:2] == (0, "2 dropped\n")
    assert [each["sequence"] for each in await lines_of(own_server, "ls", "orders", "--others")] == [5]


async def test_drop_when_not_told_what_or_not_allowed_changes_nothing(
    own_server: eda.EmbeddedServer, conn: eda.Conn
) -> None:
    await bury_some(conn)
    for arguments in ([], ["--all", "--name", "billing"]):
        code, _, err = await run_eda(*at(own_server, "drop", "orders", *arguments, "--yes"))
        assert code == 2
        assert err == "Error: say which letters to drop: --seq, --name, --reason, or --all alone\n"
    code, _, err = await run_eda(*at(own_server, "drop", "orders", "--all"))
    assert code == 2
    assert "Add --yes" in err
    refused = await run_in_terminal(*at(own_server, "drop", "orders", "--all"), keys=[("for ever?", "n\n")])
    assert refused.code == 1
    assert "Remove 4 dead letters from orders-dead for ever?" in refused.text
    assert (await conn.streams.info("orders-dead")).events == 5
    dropped = await run_in_terminal(*at(own_server, "drop", "orders", "--all"), keys=[("for ever?", "y\n")])
    assert dropped.code == 0
    assert (await conn.streams.info("orders-dead")).events == 1


async def has_events(conn: eda.Conn) -> bool:
    return (await conn.streams.info("orders")).events > 0


async def test_replay_when_interrupted_leaves_each_letter_whole(own_server: eda.EmbeddedServer, conn: eda.Conn) -> None:
    n_letters = 300
    for number in range(1, n_letters + 1):
        await bury(conn, "orders", number)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eda.cli", *at(own_server, "replay", "orders", "billing"))
    )
    await until(lambda: has_events(conn))
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    n_left = (await conn.streams.info("orders-dead")).events
    n_published = (await conn.streams.info("orders")).events
    assert n_left > 0
    assert n_left + n_published in (n_letters, n_letters + 1)
    await conn.replay_dead("orders", "billing")
    assert (await conn.streams.info("orders")).events == n_letters
