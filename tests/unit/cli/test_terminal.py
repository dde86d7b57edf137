"""support.cli.terminal: a command in a terminal, and what its user sees."""

from __future__ import annotations

import pytest

from support.cli.terminal import CTRL_C, Terminal, run_in_terminal

SIZE = "import os; print(*os.get_terminal_size(), os.isatty(0), os.isatty(1), os.isatty(2))"
WAIT = "import time; print('waiting', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(2, signal.SIG_IGN); signal.signal(1, signal.SIG_IGN); "
    "print('here', flush=True); time.sleep(60)"
)


@pytest.mark.parametrize(("columns", "rows"), [(80, 40), (200, 25)])
async def test_run_in_terminal_when_the_command_asks_has_the_size(columns: int, rows: int) -> None:
    shown = await run_in_terminal(code=SIZE, columns=columns, rows=rows)
    assert (shown.code, shown.text) == (0, f"{columns} {rows} True True True")


async def test_run_in_terminal_when_text_is_redrawn_shows_the_last_state_and_keeps_the_bytes() -> None:
    shown = await run_in_terminal(code=r"print('first\rsecon\x1b[31md\x1b[0m')")
    assert shown.text == shown.end == "second"
    assert b"\x1b[31m" in shown.raw


async def test_run_in_terminal_when_lines_scroll_away_has_them_in_the_text() -> None:
    shown = await run_in_terminal(code="print(*range(100), sep='\\n')", rows=10)
    assert shown.text.split() == [str(number) for number in range(100)]


async def test_run_in_terminal_when_lines_are_long_breaks_them() -> None:
    shown = await run_in_terminal(code="print('x' * 100)", columns=80)
    assert shown.text == "x" * 80 + "\n" + "x" * 20


async def test_run_in_terminal_when_it_waits_for_keys_types_them() -> None:
    shown = await run_in_terminal(code="print(input('name? ') * 2)", keys=[("name?", "ab\n")])
    assert (shown.code, shown.text) == (0, "name? ab\nabab")


async def test_run_in_terminal_when_the_condition_holds_types_ctrl_c() -> None:
    shown = await run_in_terminal(code=WAIT, until="waiting")
    assert shown.code == -2
    assert "KeyboardInterrupt" in shown.end
    assert "KeyboardInterrupt" not in shown.text


async def test_run_in_terminal_when_the_command_does_not_end_fails_and_kills_it() -> None:
    with pytest.raises(AssertionError, match=r"did not end in time:\s+here"):
        await run_in_terminal(code=STUBBORN, until="here", deadline_s=2)


async def test_run_in_terminal_when_the_text_never_comes_fails_with_what_was_shown() -> None:
    with pytest.raises(AssertionError, match=r"did not show 'something else':\s+1"):
        await run_in_terminal(code="print(1)", until="something else")


async def test_terminal_when_resized_tells_the_command() -> None:
    code = (
        "import os, signal, time; signal.signal(signal.SIGWINCH, lambda *_: print('now', *os.get_terminal_size()));"
        "print('ready', flush=True); time.sleep(60)"
    )
    async with Terminal(code=code) as terminal:
        await terminal.shows("ready")
        terminal.resize(120, 30)
        await terminal.shows("now 120 30")
        terminal.type(CTRL_C)
        assert await terminal.ended() == -2
