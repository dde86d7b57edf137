"""Tables that fit the terminal: without their least important columns, or with the names in lines of their own.

A name has to be typed again, so it is never cut. In a file, lines are as long as they need to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from eda.cli.output import console

__all__ = ["Column", "lines_of", "print_rows"]

GAP = "  "


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    """whether its cells end below each other"""
    drop: int = 0
    """0: it is always shown; else columns with larger numbers are left out first"""
    is_name: bool = False
    """whether its cells are names, which get lines of their own if they don't fit"""
    elastic: int | None = None
    """the ends of its cells may be left out, but another column is left out before they are shorter than this"""


def print_rows(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table. Texts of servers and events must be safe already."""
    to = console()
    for line in lines_of(columns, rows, to.width if to.is_terminal else None):
        to.print(line, soft_wrap=True)


def lines_of(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], width: int | None) -> list[Text]:
    """Return the lines of a table. Without a width, they are as long as they need to be.

    A line is longer than the width only if a name is, or if the columns that are always shown are.
    """
    cells = [[each if isinstance(each, Text) else Text(each) for each in row] for row in rows]
    table = _Table(columns, cells, width)
    everything = list(range(len(columns)))
    if (shown := table.that_fit(everything, 0)) is not None:
        return [table.header(shown, ""), *(table.line(row, shown, "") for row in cells)]
    return _folded(table, columns, cells)


def _folded(table: _Table, columns: Sequence[Column], cells: list[list[Text]]) -> list[Text]:
    """Return lines with one name, each deeper than the one before, and below them the line with the values."""
    names = [at for at, column in enumerate(columns) if column.is_name]
    values = [at for at, column in enumerate(columns) if not column.is_name]
    indent = GAP * len(names)
    shown = table.that_fit(values, len(indent))
    if shown is None:
        shown = [at for at in values if not columns[at].drop]
    lines = [Text(GAP * depth + columns[at].title, "bold") for depth, at in enumerate(names)]
    lines.append(table.header(shown, indent))
    before: list[str] = []
    for row in cells:
        path = [row[at].plain for at in names]
        for depth, at in enumerate(names):
            if path[: depth + 1] != before[: depth + 1]:
                lines.append(Text.assemble(GAP * depth, row[at]))
                lines[-1].rstrip()
        lines.append(table.line(row, shown, indent))
        before = path
    return lines


class _Table:
    """The cells and the widths of the columns."""

    def __init__(self, columns: Sequence[Column], cells: list[list[Text]], width: int | None) -> None:
        self._columns = columns
        self._width = width
        self._widths = [
            max([cell_len(column.title), *(cell_len(row[at].plain) for row in cells)])
            for at, column in enumerate(columns)
        ]

    def that_fit(self, shown: list[int], indent: int) -> list[int] | None:
        """Return the columns that are left when the least important ones are dropped; None: the others don't fit."""
        shown = list(shown)
        while self._width is not None and indent + self._least(shown) > self._width:
            worst = max(shown, key=lambda at: self._columns[at].drop, default=None)
            if worst is None or not self._columns[worst].drop:
                return None
            shown.remove(worst)
        return shown

    def header(self, shown: list[int], indent: str) -> Text:
        """Return the line with the titles."""
        return self.line([Text(column.title, "bold") for column in self._columns], shown, indent)

    def line(self, row: list[Text], shown: list[int], indent: str) -> Text:
        """Return the line with the cells of these columns."""
        room = None
        if self._width is not None:
            others = [at for at in shown if self._columns[at].elastic is None]
            n_elastic = len(shown) - len(others)
            used = len(indent) + sum(self._widths[at] for at in others) + len(GAP) * (len(shown) - 1)
            room = max((self._width - used) // max(n_elastic, 1), 1)
        line = Text(indent)
        for number, at in enumerate(shown):
            cell, size = row[at].copy(), self._widths[at]
            if self._columns[at].elastic is not None and room is not None:
                size = min(size, room)
                cell.truncate(size, overflow="ellipsis")
            blank = " " * (size - cell_len(cell.plain))
            line.append(GAP if number else "")
            line.append_text(Text.assemble(blank, cell) if self._columns[at].right else Text.assemble(cell, blank))
        line.rstrip()
        return line

    def _least(self, shown: list[int]) -> int:
        """Return how wide the columns are at least."""
        sizes = [min(self._widths[at], self._columns[at].elastic or self._widths[at]) for at in shown]
        return sum(sizes) + len(GAP) * max(len(shown) - 1, 0)
