"""The table of log lines in docs/logging.md, and what is wrong with records according to it."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from support.log_calls import FIELDS_OF_EVENT

__all__ = ["TABLE", "Row", "read_rows", "undocumented"]

TABLE = Path(__file__).resolve().parents[2] / "docs" / "logging.md"

_BEGIN = re.compile(r"\| (DEBUG|INFO|WARNING|ERROR|CRITICAL)[^|]* \| `")
_ROW = re.compile(r"\| ([A-Z]+(?: or DEBUG)?) \| (?:`` (.+?) ``|`([^`]+)`) \| ([^|]*) \| ([^|]+) \| ([^|]+) \|")


class Row(NamedTuple):
    """What the table says about one text."""

    levels: set[str]
    fields: set[str]
    meaning: str
    what_to_do: str


@functools.cache
def read_rows() -> dict[str, Row]:
    """Return the rows by text; none if the file is not there, as for the tests of a wheel."""
    rows: dict[str, Row] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines() if TABLE.is_file() else ():
        if not _BEGIN.match(line):
            continue
        found = _ROW.fullmatch(line)
        assert found, f"docs/logging.md: this is not a row: {line}"
        level, quoted, plain, fields, meaning, what_to_do = found.groups()
        text = quoted or plain
        assert text not in rows, f"docs/logging.md has two rows for {text!r}"
        named = set(re.findall(r"eda_\w+", fields)) | (set(FIELDS_OF_EVENT) if "those of an event" in fields else set())
        rows[text] = Row(set(level.split(" or ")), named, meaning, what_to_do)
    return rows


def undocumented(records: Iterable[logging.LogRecord]) -> list[str]:
    """Return what is wrong with the records of connections: no row, another level, or fields that are missing."""
    wrong, rows = [], read_rows()
    for record in records:
        if not rows or record.name != "eda" or not hasattr(record, "eda_client"):
            continue
        row = rows.get(str(record.msg))
        if row is None:
            wrong.append(f"docs/logging.md has no row for {record.msg!r}")
        elif record.levelname not in row.levels:
            wrong.append(f"docs/logging.md has another level for {record.msg!r}: {record.levelname}")
        elif missing := sorted(field for field in row.fields if not hasattr(record, field)):
            wrong.append(f"a record lacks {missing}, which docs/logging.md promises: {record.msg!r}")
    return wrong
