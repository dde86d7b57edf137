"""The ids of a command's events."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eda
from eda.store.command_ids import MAX_COMMAND_ID, check_command_id, command_in, event_ids, infix_of

COMMAND_IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=100)
AGGREGATES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("command_id", ["a", "~!.>*%", "x" * 100, Text("abc")])
def test_command_id_when_valid_is_a_plain_str(command_id: str) -> None:
    assert check_command_id(command_id) == command_id
    assert type(check_command_id(command_id)) is str


@pytest.mark.parametrize("command_id", ["", "a b", "a\n", "\x7f", "ä", "x" * 101, None, 5, b"a", "x" * 10_000])
def test_command_id_when_wrong_is_refused(command_id: Any) -> None:
    with pytest.raises(eda.ConfigError, match="command_id must be a str of 1 to 100 printable ASCII") as caught:
        check_command_id(command_id)
    assert caught.value.argument == "command_id"
    assert len(str(caught.value)) < 400


def test_event_ids_when_made_are_the_same_in_every_release() -> None:
    """A command of an older release may be executed again by a newer one."""
    assert event_ids("req-81", "4711", 2) == ["req-81.4ELngw3Wtx.1", "req-81.4ELngw3Wtx.2"]
    assert event_ids("req-81", "ä", 1) == ["req-81.azy1m26Kd8.1"]
    assert event_ids("req-81", "4711", 0) == []


def test_event_ids_when_the_aggregates_differ_differ() -> None:
    ids = {event_ids("a", str(number), 1)[0] for number in range(10_000)}
    assert len(ids) == 10_000
    assert all(re.fullmatch(r"a\.[0-9A-Za-z]{10}\.1", each) for each in ids)


@given(COMMAND_IDS, AGGREGATES, AGGREGATES)
def test_command_when_read_from_an_event_id_is_that_of_this_aggregate(
    command_id: str, aggregate: str, other: str
) -> None:
    for number, event_id in enumerate(event_ids(command_id, aggregate, 3), 1):
        assert command_in(event_id, infix_of(aggregate)) == (command_id, number)
        assert command_in(event_id, infix_of(other)) == ((command_id, number) if other == aggregate else None)


@pytest.mark.parametrize(
    "event_id",
    [
        "",
        ".",
        "..",
        "...",
        "1",
        "KFz0nWWTrNtnbdlYQAaJ0B",
        "{infix}",
        "{infix}1",
        "a{infix}",
        "a{infix}0",
        "a{infix}01",
        "a{infix}x",
        "a{infix}-1",
        "a{infix}1 ",
        "a{infix}²",
        "a{infix}1.1",
        "a b{infix}1",
        "{long}{infix}1",
        "a4ELngw3Wtx.1",
    ],
)
def test_command_when_the_event_id_is_of_another_form_is_none(event_id: str) -> None:
    event_id = event_id.format(infix=".4ELngw3Wtx.", long="x" * 101)
    assert command_in(event_id, infix_of("4711")) is None


def test_command_id_when_events_cause_commands_again_and_again_stays_short() -> None:
    event_id, seen = "22-characters-of-an-id", set()
    for hop in range(50):
        command_id = check_command_id(event_id)
        assert check_command_id(event_id) == command_id
        assert len(command_id) <= MAX_COMMAND_ID
        event_id = event_ids(command_id, f"a{hop % 2}", 1)[0]
        assert command_in(event_id, infix_of(f"a{hop % 2}")) == (command_id, 1)
        seen.add(event_id)
    assert len(seen) == 50
