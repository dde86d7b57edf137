"""The latest commands of an aggregate."""

from __future__ import annotations

import random
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eda
from eda._codec import encode_event, stored_event
from eda.store._recent_commands import MOST, RecentCommands
from eda.store.command_ids import event_ids

COMMAND_IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=100)


def stored(event_id: str, version: int) -> eda.Event:
    envelope = encode_event(eda.Event(type="t", aggregate="4711"), event_id, "me", 1, version)
    return stored_event(envelope, "orders", 1000 + version, 1)


def filled(n: int) -> RecentCommands:
    commands = RecentCommands()
    for number in range(1, n + 1):
        commands.add(f"c{number}", number, number * 2, 1)
    return commands


def test_command_when_added_is_found_with_its_place() -> None:
    commands = RecentCommands()
    assert commands.find("a") is None
    commands.add("a", 1, 10, 2)
    commands.add("b", 3, 15, 1)
    assert (commands.find("a"), commands.find("b"), commands.find("c")) == ((1, 10, 2), (3, 15, 1), None)
    assert len(commands) == 2


@pytest.mark.parametrize("n", [1, 32, 33, 255, 256, 257, 288, 289, 5000])
def test_commands_when_many_are_added_keep_exactly_the_last_256(n: int) -> None:
    commands = filled(n)
    assert len(commands) == min(n, MOST)
    for number in range(1, n + 1):
        assert commands.find(f"c{number}") == ((number, number * 2, 1) if number > n - MOST else None), number


@given(st.integers(0, 2**32))
def test_commands_when_added_copied_and_written_at_any_time_find_what_a_list_finds(seed: int) -> None:
    chance = random.Random(seed)
    commands, reference = RecentCommands(), {}
    version = sequence = 1
    for _ in range(chance.randrange(700)):
        n = chance.randrange(1, 4)
        name = f"c{chance.randrange(10**6)}"
        if name in reference:
            continue
        commands.add(name, version, sequence, n)
        reference[name] = (version, sequence, n)
        version, sequence = version + n, sequence + n + chance.randrange(5)
        if chance.random() < 0.01:
            commands = chance.choice([commands.copy(), RecentCommands.from_text(commands.to_text())])
    kept = dict(list(reference.items())[-MOST:])
    assert {name: commands.find(name) for name in reference} == {name: kept.get(name) for name in reference}
    assert len(commands) == len(kept)
    assert RecentCommands.from_text(commands.to_text()) == commands


def test_command_when_not_beyond_the_last_is_ignored() -> None:
    for commands in (filled(3), RecentCommands.from_text(filled(3).to_text())):
        commands.add("late", 3, 6, 1)
        commands.add("late", 1, 1, 5)
        assert commands.find("late") is None
        assert len(commands) == 3


def test_command_when_executed_again_after_it_was_dropped_is_found_where_it_was_stored_last() -> None:
    commands = filled(300)
    commands.add("c1", 301, 700, 1)
    assert commands.find("c1") == (301, 700, 1)
    for number in range(302, 302 + MOST):
        commands.add(f"c{number}", number, number * 3, 1)
    assert commands.find("c1") is None


def test_copy_when_either_is_changed_stays_as_it_is() -> None:
    commands = filled(40)
    copied = commands.copy()
    assert copied == commands
    commands.add("more", 100, 500, 1)
    copied.add("other", 101, 501, 1)
    assert (commands.find("other"), copied.find("more")) == (None, None)
    assert copied != commands


def test_events_when_noted_add_the_commands_that_stored_them() -> None:
    commands = RecentCommands()
    ids = ["plain", *event_ids("a", "4711", 3), *event_ids("b", "other", 1), *event_ids("c", "4711", 1), "last"]
    commands.note([stored(event_id, version) for version, event_id in enumerate(ids, 1)], "4711")
    assert (commands.find("a"), commands.find("b"), commands.find("c")) == ((2, 1002, 3), None, (6, 1006, 1))
    commands.note([stored(event_ids("d", "4711", 1)[0], 8)], "4711")
    assert commands.find("d") == (8, 1008, 1)


def test_events_when_noted_one_by_one_across_a_write_are_one_command() -> None:
    commands = filled(32)
    for number, event_id in enumerate(event_ids("a", "4711", 40)):
        commands.note([stored(event_id, 33 + number)], "4711")
    assert commands.find("a") == (33, 1033, 40)


def test_events_when_only_a_part_of_a_command_is_noted_count_no_others() -> None:
    commands = RecentCommands()
    first, second, third = event_ids("a", "4711", 3)
    commands.note([stored(second, 2), stored(third, 3)], "4711")
    assert commands.find("a") is None
    commands.note([stored(first, 4), stored(third, 5), stored(second, 7)], "4711")
    assert commands.find("a") == (4, 1004, 1)


def test_event_when_noted_again_changes_nothing() -> None:
    commands = RecentCommands()
    events = [stored(event_id, version) for version, event_id in enumerate(event_ids("a", "4711", 3), 5)]
    commands.note(events, "4711")
    commands.note(events, "4711")
    assert commands.find("a") == (5, 1005, 3)
    assert len(commands) == 1


@given(st.lists(COMMAND_IDS, unique=True, max_size=40))
def test_text_when_read_has_the_same_commands_and_fits_into_a_header(names: list[str]) -> None:
    commands = RecentCommands()
    for number, name in enumerate(names, 1):
        commands.add(name, number, number * 7, 1)
    text = commands.to_text()
    assert text.isascii()
    assert text.isprintable()
    assert text == text.strip()
    read = RecentCommands.from_text(text)
    assert {name: read.find(name) for name in names} == {name: commands.find(name) for name in names}
    assert read.to_text() == text


def test_text_when_there_are_no_commands_is_empty() -> None:
    assert RecentCommands().to_text() == ""
    assert len(RecentCommands.from_text("")) == 0


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "a",
        "a 1,1",
        "a 1,1,1,1",
        "a 1,1,1 ",
        " a 1,1,1",
        "a 1,1,1\n",
        "a 1,1,1 b 2,2,1",
        "a 1,1,1   b 2,2,1",
        "a 0,1,1",
        "a 1,0,1",
        "a 1,1,0",
        "a 01,1,1",
        "a -1,1,1",
        "a +1,1,1",
        "a 1,1,²",
        "a ١,1,1",
        "ä 1,1,1",
        f"{'x' * 101} 1,1,1",
        "a 2,1,1  b 2,5,1",
        "a 1,1,2  b 2,5,1",
        "a 1,5,1  b 2,5,1",
        "a 1,5,2  b 3,6,1",
        "b 2,5,1  a 1,1,1",
        f"a {2**63},1,1",
        f"a {2**63 - 1},1,1",
        "a 99999999999999999999,1,1",
        "  ".join(f"c{number} {number},{number},1" for number in range(1, MOST + 2)),
    ],
)
def test_text_when_it_is_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^recent commands: "):
        RecentCommands.from_text(text)


def test_commands_when_there_are_256_take_little_room() -> None:
    """10,000 aggregates may be cached."""
    commands = RecentCommands()
    for number in range(1, 2000):
        commands.add(f"{number:036}", number, number * 1000, 1)
    n_bytes = sys.getsizeof(commands)
    assert n_bytes < 25_000


def test_commands_when_timed_are_added_in_some_microseconds() -> None:
    """A copy of 256 entries for each command would take 10 µs or more."""

    def seconds() -> float:
        commands = RecentCommands()
        began = time.perf_counter()
        for number in range(1, 2001):
            commands.add(str(number), number, number, 1)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(10)) / 2000 < 4e-6
