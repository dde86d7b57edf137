"""eda.amounts: durations and sizes as people read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import eda
from eda.amounts import duration_text, size_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-1.0, "0 s"), (0.0, "0 s"), (0.00031, "0.31 ms"), (0.35, "350 ms"), (0.9996, "1 s")),
        *((1, "1 s"), (2.5, "2.5 s"), (9.96, "10 s"), (90, "90 s"), (119.7, "120 s")),
        *((120, "2 min"), (456.6, "7.6 min"), (3600, "60 min"), (7199, "120 min")),
        *((7200, "2 h"), (86400, "24 h"), (172800, "2 d"), (7 * 86400, "7 d"), (1e9, "11,574 d")),
    ],
)
def test_duration_text_when_in_each_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        *((0, "0 B"), (512, "512 B"), (999, "999 B"), (1000, "1 kB"), (65536, "65.5 kB"), (999_499, "999 kB")),
        *((999_700, "1 MB"), (2**20, "1.05 MB"), (50 * 10**9, "50 GB"), (123 * 10**9, "123 GB")),
        *((10**12, "1 TB"), (1234 * 10**12, "1,234 TB")),
    ],
)
def test_size_text_when_in_each_unit(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


def test_amounts_when_commands_and_the_doctor_write_them_come_from_here() -> None:
    own_form = re.compile(r"\}\)? (?:ms|s|min|h|d|B|kB|KB|KiB|MB|MiB|GB|GiB|TB)\b")
    package = Path(eda.__file__).parent
    found = [
        f"{path.name}: {line.strip()}"
        for wing in ("cli", "diagnosis")
        for path in (package / wing).glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if own_form.search(line)
    ]
    assert found == []
