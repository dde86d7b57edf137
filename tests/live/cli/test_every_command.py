"""What holds for every command of `eda`: its help, its errors, closed pipes, colours, and hostile texts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress

import pytest

import eda
from helpers import Logged, free_port, until
from support.cli.commands import run_eda
from support.cli.terminal import run_in_terminal
from support.cli.tree import COMMANDS, arguments_of, connects

every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
every_client = pytest.mark.parametrize("path", [path for path in COMMANDS if connects(path)], ids=" ".join)

pytestmark = pytest.mark.usefixtures("no_server_named")

DEADLINE_S = 60
HOSTILE = "\x1b]0;owned\x07\x9b31m\r\u202e"
COLOURS = re.compile(rb"\x1b\[[0-9;]*3[0-7]|\x1b\[[0-9;]*38;")

# Commands that only read what `filled` has, with what they need after their name.
READING: dict[tuple[str, ...], list[str]] = {
    ("tail",): ["orders", "--no-follow", "--from", "1"],
    ("streams", "ls"): [],
    ("streams", "info"): ["orders"],
    ("subs", "ls"): ["orders"],
    ("subs", "info"): ["orders", "billing"],
    ("lag",): ["orders"],
    ("dead", "ls"): ["orders"],
    ("dead", "show"): ["orders", "1"],
    ("graph",): ["orders", "--dot"],
    ("store", "cat"): ["ledger", "a"],
    ("doctor",): ["orders"],
}
reading = pytest.mark.parametrize("path", [path for path in READING if path in COMMANDS], ids=" ".join)


def json_of(path: tuple[str, ...]) -> list[str]:
    """Return what the command needs to print JSON."""
    return [*(word for word in READING[path] if word != "--dot"), "--json"]


@pytest.fixture
async def filled(own_server: eda.EmbeddedServer, logged: Logged) -> str:
    """A server with events, an aggregate, a subscription and dead letters, whose texts are all hostile."""

    def reject(_: eda.Event) -> None:
        raise eda.Reject(HOSTILE)

    logged.allow("")
    async with eda.connect(own_server.url, client=f"client {HOSTILE}") as conn:
        for number in range(3):
            event = eda.Event(
                type=f"made {HOSTILE}",
                aggregate=f"a{number} {HOSTILE}",
                id=f"id-{number}",  # an id is a header, so the server takes no control characters in it
                cause=f"id-{number - 1}" if number else HOSTILE,
                schema=HOSTILE,
                meta={HOSTILE: HOSTILE},
                data=eda.String(HOSTILE) if number else eda.JSON({HOSTILE: [HOSTILE]}),
            )
            await conn.publish("orders", event)
        async with conn.subscribe("orders", reject, name="billing", durable=True, backfill=True) as sub:
            await until(lambda: sub.stats().dead_lettered == 3)
        events = [eda.Event(type=f"opened {HOSTILE}", data=eda.String(HOSTILE), meta={HOSTILE: HOSTILE})]
        await conn.store("ledger").append("a", events, expected="new")
    return own_server.url


async def closed_pipe(*arguments: str) -> tuple[int, str]:
    """Run the command with a standard output that nobody reads; give its exit code and standard error."""
    theirs_to_read, theirs = os.pipe()
    os.close(theirs_to_read)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eda.cli", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(theirs)
    try:
        async with asyncio.timeout(DEADLINE_S):
            _, err = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return process.returncode, err.decode()


@every_command
async def test_help_when_asked_for_is_plain_text_and_fits(path: tuple[str, ...]) -> None:
    code, out, err = await run_eda(*path, "--help", columns=80)
    assert (code, err) == (0, "")
    assert " ".join(path) in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80


@every_command
async def test_help_when_the_pipe_is_closed_is_quiet(path: tuple[str, ...]) -> None:
    _, err = await closed_pipe(*path, "--help")
    assert err == ""


@every_command
async def test_command_when_an_option_does_not_exist_ends_with_code_2(path: tuple[str, ...]) -> None:
    code, out, err = await run_eda(*path, "--no-such-option")
    assert (code, out) == (2, "")
    assert "No such option" in err


@every_client
async def test_command_when_no_server_is_there_ends_with_code_2_and_one_line(path: tuple[str, ...]) -> None:
    began = time.monotonic()
    address = f"nats://ann:s3cret@127.0.0.1:{free_port()}"
    code, out, err = await run_eda(*arguments_of(path), "--addr", address, "--connect-timeout", "0.5")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert "s3cret" not in err
    assert time.monotonic() - began < 20  # 0.5 s, and the time that a busy machine takes to start Python


@every_client
async def test_command_when_two_options_name_a_server_ends_with_code_2(path: tuple[str, ...]) -> None:
    code, out, err = await run_eda(*arguments_of(path), "--addr", "127.0.0.1:1", "--context", "prod")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_reading_when_compared_with_the_commands_has_names_of_commands() -> None:
    groups = {path[0] for path in COMMANDS}
    assert [path for path in READING if path not in COMMANDS and path[0] in groups] == []


@reading
async def test_reading_when_the_pipe_is_closed_is_quiet(filled: str, path: tuple[str, ...]) -> None:
    for words in (READING[path], json_of(path)):
        code, err = await closed_pipe(*path, *words, "--addr", filled)
        assert err == ""
        assert code in (0, 1, 141)


@reading
async def test_reading_when_it_is_no_terminal_writes_no_escape_sequence(filled: str, path: tuple[str, ...]) -> None:
    code, out, err = await run_eda(*path, *READING[path], "--addr", filled)
    assert code in (0, 1), err
    assert out
    # Events in a file or pipe are JSON in UTF-8.
    assert not re.search("[\x00-\x09\x0b-\x1f]" if path == ("tail",) else "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)


@reading
async def test_reading_when_json_is_asked_for_prints_an_object_in_each_line(filled: str, path: tuple[str, ...]) -> None:
    code, out, err = await run_eda(*path, *json_of(path), "--addr", filled)
    assert (code, err) in ((0, ""), (1, ""))
    assert not re.search("[\x00-\x09\x0b-\x1f]", out)
    for line in out.removesuffix("\n").split("\n"):
        fields = json.loads(line)
        assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in fields)


@reading
@pytest.mark.parametrize("columns", [80, 200])
async def test_reading_when_texts_are_hostile_never_lets_them_reach_the_terminal(
    filled: str, path: tuple[str, ...], columns: int
) -> None:
    for words in (READING[path], json_of(path)):
        shown = await run_in_terminal(*path, *words, "--addr", filled, columns=columns, rows=60)
        assert shown.code in (0, 1), shown.text
        assert shown.text
        assert b"\x1b]" not in shown.raw
        assert b"\x07" not in shown.raw
        assert "\x9b".encode() not in shown.raw
        assert "\u202e".encode() not in shown.raw
        assert b"\r" not in shown.raw.replace(b"\r\n", b"")


@reading
async def test_reading_when_colours_are_not_wanted_has_none(filled: str, path: tuple[str, ...]) -> None:
    shown = await run_in_terminal(*path, *READING[path], "--addr", filled, env={"NO_COLOR": "1"})
    assert not COLOURS.search(shown.raw)


@reading
async def test_reading_when_it_is_done_has_changed_nothing(filled: str, path: tuple[str, ...]) -> None:
    async def everything() -> list[object]:
        async with eda.connect(filled) as conn:
            streams = await conn.streams.list()
            subscriptions = [await conn.subscriptions(name) for name in ("orders", "ledger", "orders-dead")]
        return [streams, [[(each.name, each.position, each.lag) for each in some] for some in subscriptions]]

    before = await everything()
    await run_eda(*path, *READING[path], "--addr", filled)
    assert await everything() == before
