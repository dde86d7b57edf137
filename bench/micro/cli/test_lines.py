"""Events made of JSON lines, beside the same by msgspec and the constructor of events."""

from __future__ import annotations

from collections.abc import Callable

from micro.cli.lines import N, eda_lines, msgspec_lines


def test_contenders_agree() -> None:
    assert len(eda_lines()) == N
    assert eda_lines() == msgspec_lines()


def test_lines(contest: Callable[..., None]) -> None:
    contest("cli.lines", "eda_lines", "msgspec_lines")
