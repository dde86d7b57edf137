"""The tables of `eda` on terminals, with names of the greatest length."""

from __future__ import annotations

import sys

import pytest

import eda
from helpers import Logged, until

if sys.platform == "win32":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

from support.cli.commands import run_eda
from support.cli.terminal import Terminal, run_in_terminal

STREAM = "stream-" + "s" * 52  # with `-dead` it has 64 characters
SHARED, ORDERED = "shared-" + "n" * 57, "ordered-" + "n" * 56
HOLDER = "a-service-with-a-name-of-many-characters-7d9f8c-x2k4p"

# By the words of a command: the names that its table must show whole, and titles that it must have.
TABLES: dict[tuple[str, ...], tuple[list[str], set[str]]] = {
    ("streams", "ls"): ([STREAM, f"{STREAM}-dead"], {"name", "events"}),
    ("subs", "ls"): ([STREAM, SHARED, ORDERED], {"stream", "name", "lag", "age", "members"}),
    ("subs", "ls", STREAM): ([SHARED, ORDERED], {"name", "lag", "age", "members"}),
    ("lag",): ([STREAM, SHARED, ORDERED], {"stream", "subscription", "lag", "age"}),
    ("lag", "--max", "0"): ([STREAM, SHARED, ORDERED], {"lag", "age", "limit"}),
    ("top", "--once", "--interval", "100ms"): ([STREAM, SHARED, ORDERED], {"in/s", "out/s", "lag", "age", "dead"}),
    ("dead", "ls", STREAM): ([SHARED], {"seq", "subscription", "reason", "error"}),
    ("dead", "ls", STREAM, "--summary"): ([SHARED], {"subscription", "reason", "letters", "error"}),
    ("streams", "info", STREAM): ([STREAM, SHARED, ORDERED], {"lag", "age"}),
    ("subs", "info", STREAM, SHARED): ([STREAM, SHARED], set()),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("columns", [80, 200])
async def test_tables_when_names_are_long_show_them_whole_within_the_width(
    own_server: eda.EmbeddedServer, logged: Logged, columns: int
) -> None:
    def reject(_: eda.Event) -> None:
        raise eda.Reject("the warehouse does not know the article, and " * 9)

    logged.allow("")
    async with eda.connect(own_server.url, client=HOLDER) as conn:
        await conn.publish(STREAM, eda.Event(type="stock-level-was-adjusted-manually", aggregate="a" * 40))
        async with conn.subscribe(STREAM, reject, name=SHARED, durable=True, backfill=True) as sub:
            await until(lambda: sub.stats().dead_lettered == 1)
        async with conn.subscribe(
            STREAM, lambda _: None, name=ORDERED, durable=True, exclusive=True, backfill=True
        ) as reading:
            await until(lambda: reading.stats().handled == 1)
            await conn.publish(STREAM, eda.Event(type="a"))
            for words, (names, titles) in TABLES.items():
                shown = await run_in_terminal(*words, "--addr", own_server.url, columns=columns)
                assert shown.code == (1 if "--max" in words else 0), words
                lines = shown.text.splitlines()
                assert max(map(len, lines)) <= columns, words
                assert all(name in shown.text for name in names), (words, shown.text)
                assert titles <= set(shown.text.split()), (words, shown.text)
            async with Terminal("top", "--interval", "100ms", "--addr", own_server.url, columns=columns) as terminal:
                await terminal.shows(ORDERED)
                assert all(name in terminal.screen for name in (STREAM, SHARED))


async def test_tables_when_not_on_a_terminal_have_a_line_for_each_row(
    own_server: eda.EmbeddedServer, shop: eda.Conn
) -> None:
    await shop.streams.create(STREAM)
    async with shop.subscribe(STREAM, lambda _: None, name=SHARED, durable=True):
        pass
    for words in (["streams", "ls"], ["subs", "ls"], ["lag"]):
        code, out, _ = await run_eda(*words, "--addr", own_server.url, columns=80)
        assert (code, len(out.splitlines())) == (0, 2)
        assert STREAM in out.splitlines()[1]
