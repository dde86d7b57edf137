"""eda.cli.tables: what is left out or folded where a table is too wide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from eda.cli.tables import Column, lines_of

COLUMNS = (
    Column("stream", is_name=True),
    Column("name", is_name=True),
    Column("kind", drop=2),
    Column("lag", right=True),
    Column("who", drop=1, elastic=10),
)
SHORT = [["orders", "billing", "shared", "7", "somebody in Berlin"], ["orders", "mail", "ordered", "1,234", "none"]]
LONG = [["s" * 64, "n" * 60, "shared", "7", "none"], ["s" * 64, "m" * 64, "ordered", "1,234", "w" * 90]]


def shown(rows: list[list[str]], width: int | None) -> list[str]:
    return [line.plain for line in lines_of(COLUMNS, rows, width)]


def test_lines_when_there_is_room_are_one_for_each_row() -> None:
    expected = [
        "stream  name     kind       lag  who",
        "orders  billing  shared       7  somebody in Berlin",
        "orders  mail     ordered  1,234  none",
    ]
    assert shown(SHORT, None) == expected
    assert shown(SHORT, 80) == expected


def test_lines_when_there_is_less_room_shorten_texts_and_then_leave_columns_out() -> None:
    assert shown(SHORT, 44)[1] == "orders  billing  shared       7  somebody i…"
    assert shown(SHORT, 40) == [
        "stream  name       lag  who",
        "orders  billing      7  somebody in Ber…",
        "orders  mail     1,234  none",
    ]
    assert shown(SHORT, 30) == ["stream  name       lag", "orders  billing      7", "orders  mail     1,234"]


def test_lines_when_names_are_long_show_them_whole_and_the_values_below() -> None:
    assert shown(LONG, 80) == [
        "stream",
        "  name",
        "    kind       lag  who",
        "s" * 64,
        "  " + "n" * 60,
        "    shared       7  none",
        "  " + "m" * 64,
        "    ordered  1,234  " + "w" * 59 + "…",
    ]
    assert shown(LONG, None)[2].endswith("w" * 90)


@given(
    st.lists(st.lists(st.text("aä漢 ", max_size=64), min_size=5, max_size=5), max_size=4),
    st.integers(min_value=20, max_value=220),
)
def test_lines_when_random_never_cut_a_name_and_only_names_are_too_wide(rows: list[list[str]], width: int) -> None:
    lines = shown(rows, width)
    for row in rows:
        for name in row[:2]:
            assert any(name.rstrip() in line for line in lines)
    names = {("  " * depth + row[depth]).rstrip() for row in rows for depth in (0, 1)}
    lag = max([cell_len("lag"), *(cell_len(row[3]) for row in rows)])
    assert all(cell_len(line) <= max(width, 4 + lag) or line in names for line in lines)


@pytest.mark.parametrize("width", [80, 200])
def test_lines_when_there_are_no_rows_have_titles(width: int) -> None:
    assert shown([], width) == ["stream  name  kind  lag  who"]
