"""eda.cli.values: which texts options take."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from eda.cli import main
from eda.cli.values import DURATION, INTERVAL, SIZE


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0.0), ("1ms", 0.001), ("1h30m", 5400.0), ("2d", 172800.0)])
def test_duration_when_it_is_one_is_seconds(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "1", "-1s", "1y", "99999d"])
def test_duration_when_it_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(("text", "seconds"), [("100ms", 0.1), ("0.1s", 0.1), ("2s", 2.0)])
def test_interval_when_it_is_long_enough_is_seconds(text: str, seconds: float) -> None:
    assert INTERVAL.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["0s", "0ms", "99ms"])
def test_interval_when_it_is_too_short_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is too short: give at least 100ms"):
        INTERVAL.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1.5KB", 1500), ("2 GiB", 2**31), ("9007199254740993", 9007199254740993), ("9223372036854775807", 2**63 - 1)],
)
def test_size_when_it_is_one_is_exact(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", "1XB", "9223372036854775808", "10000PB", "9" * 400, "9" * 400 + "TB"]
)
def test_size_when_it_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize("command", ["lag", "top"])
def test_command_when_its_interval_is_too_short_is_refused(command: str) -> None:
    assert isinstance(main, click.Group)
    ended = CliRunner().invoke(main, [command, "--interval", "0s"])
    assert ended.exit_code == 2
    assert "give at least 100ms" in ended.output
