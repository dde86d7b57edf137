"""eda.cli.places and `--speed`: what options accept."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner

from eda.cli.places import PLACE_OR_TIME, Chosen, Place, choosing_options
from eda.cli.replay import _Speed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Place(7)),
        ("7.3", Place(7, 3)),
        ("7.0", Place(7)),
        ("2026-11-30", None),
        ("2026-11-30T10:00:00Z", datetime(2026, 11, 30, 10, tzinfo=UTC)),
    ],
)
def test_place_when_it_is_a_sequence_or_a_time_is_read(text: str, value: object) -> None:
    found = PLACE_OR_TIME.convert(text, None, None)
    assert found == value or (value is None and isinstance(found, datetime))


@pytest.mark.parametrize("text", ["0", "0.1", "-1", "7.", "x", "7.1.2", "", "9" * 19, "٣"])
def test_place_when_it_is_neither_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        PLACE_OR_TIME.convert(text, None, None)


def test_places_when_compared_are_in_the_order_of_the_stream() -> None:
    assert sorted([Place(8), Place(7, 10), Place(7), Place(7, 2)]) == [Place(7), Place(7, 2), Place(7, 10), Place(8)]
    assert [str(Place(7)), str(Place(7, 2))] == ["7", "7.2"]


@pytest.mark.parametrize(("text", "speed"), [("max", 0.0), ("1", 1.0), ("10x", 10.0), ("0.5", 0.5), ("MAX", 0.0)])
def test_speed_when_it_is_a_factor_is_read(text: str, speed: float) -> None:
    assert _Speed().convert(text, None, None) == speed


@pytest.mark.parametrize("text", ["0", "-1", "x", "1e3", "nan", "inf", "0.0000001", "99999999999"])
def test_speed_when_it_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        _Speed().convert(text, None, None)


def test_choosing_options_when_given_reach_the_command_as_one_argument() -> None:
    got: list[tuple[str, Chosen]] = []

    @click.command()
    @click.argument("name")
    @choosing_options
    def read(name: str, chosen: Chosen) -> None:
        """Read."""
        got.append((name, chosen))

    assert CliRunner().invoke(read, ["a"]).exit_code == 0
    given = ["a", "--from", "7.3", "--to", "9", "--type", "x", "--type", "y", "--aggregate", "z"]
    assert CliRunner().invoke(read, given).exit_code == 0
    assert got == [("a", Chosen()), ("a", Chosen(Place(7, 3), Place(9), ("x", "y"), "z"))]
    assert [chosen.is_filtered for _, chosen in got] == [False, True]
