"""eda.cli.dead_changes: a removal that ends half-way says how much is done."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import pytest

import eda
from eda.cli.dead_changes import AT_ONCE, drop_letters


class Conn:
    """Removes some parts, and fails at the next one."""

    def __init__(self, n_parts: int, error: BaseException) -> None:
        self._n_parts = n_parts
        self._error = error

    async def drop_dead(self, stream: str, *, sequences: list[int], dead_letter: str | None) -> int:
        if self._n_parts == 0:
            raise self._error
        self._n_parts -= 1
        return len(sequences)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("error", [eda.Timeout("a request", 10.0), asyncio.CancelledError()], ids=["error", "signal"])
@pytest.mark.parametrize(
    ("n_parts", "told"), [(0, "0 to 10,000"), (1, "10,000 to 20,000"), (2, "20,000 to 20,005")], ids=["0", "1", "2"]
)
async def test_drop_when_a_part_fails_says_how_many_are_gone(
    capsys: pytest.CaptureFixture[str], n_parts: int, told: str, error: BaseException, as_json: bool
) -> None:
    conn: Any = Conn(n_parts, error)
    sequences = array("Q", range(1, 2 * AT_ONCE + 6))
    with pytest.raises(type(error)):
        await drop_letters(conn, "orders", sequences, None, as_json)
    assert capsys.readouterr() == ("", f"{told} of 20,005 dead letters were dropped\n")


async def test_drop_when_all_parts_are_done_says_only_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    conn: Any = Conn(2, LookupError())
    await drop_letters(conn, "orders", array("Q", range(1, AT_ONCE + 6)), None, False)
    assert capsys.readouterr() == ("10,005 dropped\n", "")
