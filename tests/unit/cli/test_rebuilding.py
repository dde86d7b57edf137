"""eda.cli.rebuilding: what a rebuild prints, and when."""

from __future__ import annotations

import json

import pytest

import eda
from eda.cli.rebuilding import _reporter


def state(lag: int) -> eda.ProjectionStats:
    streams = (eda.StreamProgress("orders", 10 - lag, lag, 0.0, (10 - lag,)),)
    return eda.ProjectionStats("orders", 2, streams)


def test_lines_when_the_first_state_comes_tell_it_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    report, _ = _reporter(as_json=True)
    report(state(7))
    report(state(5))  # too soon after the first
    report(state(0), done=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["lag"], line["done"]) for line in lines] == [(7, False), (0, True)]


def test_sentence_when_there_is_no_terminal_comes_at_the_end_alone(capsys: pytest.CaptureFixture[str]) -> None:
    report, _ = _reporter(as_json=False)
    report(state(7))
    assert capsys.readouterr() == ("", "")
    report(state(0), done=True, promoted=True)
    out, err = capsys.readouterr()
    assert out.startswith("orders v2 has caught up: ")
    assert out.endswith("\nviews of orders now read version 2\n")
    assert err == ""
