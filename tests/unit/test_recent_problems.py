"""eda.recent_problems: the latest warnings and errors, and the last one of each stream, subscription and so on."""

from __future__ import annotations

import logging

from eda.recent_problems import MAX_KEPT, MAX_SUBJECTS, MAX_TEXT, RecentProblems, time_text


def noted(*texts: str, **fields: str) -> RecentProblems:
    problems = RecentProblems()
    for text in texts:
        problems.note(logging.ERROR, text, None, fields)
    return problems


def test_latest_when_asked_for_some_gives_the_newest_first() -> None:
    assert [each.text for each in noted("a", "b", "c").latest(2)] == ["c", "b"]
    assert noted().latest(2) == []


def test_problems_when_they_are_many_and_long_are_kept_within_bounds() -> None:
    problems = RecentProblems()
    for n in range(3 * MAX_SUBJECTS):
        problems.note(logging.ERROR, "x" * 10_000, None, {"eda_stream": str(n)})
    assert len(problems.latest(10**6)) == MAX_KEPT
    assert len(problems._last_of) == MAX_SUBJECTS
    assert {len(each.text) for each in problems.latest(10**6)} == {MAX_TEXT}


def test_last_of_when_fields_are_given_is_the_newest_that_has_them() -> None:
    problems = RecentProblems()
    for text, fields in (
        ("stream", {"eda_stream": "s"}),
        ("old", {"eda_stream": "s", "eda_subscription": "a"}),
        ("b", {"eda_stream": "s", "eda_subscription": "b"}),
        ("new", {"eda_stream": "s", "eda_subscription": "a", "eda_sequence": 7}),
    ):
        problems.note(logging.WARNING, text, None, fields)

    def found(**fields: str | None) -> str | None:
        problem = problems.last_of(**fields)
        return None if problem is None else problem.text

    assert found(eda_stream="s", eda_subscription="a") == "new"
    assert found(eda_stream="s", eda_subscription=None) == "stream"
    assert found(eda_stream="s") == "new"
    assert found(eda_stream="t") is None


def test_problem_when_it_has_an_error_shows_it_in_one_line() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    problems = RecentProblems()
    problems.note(logging.ERROR, "failed", ValueError("a\nb"), {})
    problems.note(logging.ERROR, "failed", Unprintable(), {})
    assert [each.text for each in problems.latest(2)] == ["failed: Unprintable", "failed: ValueError: a\\nb"]


def test_time_when_written_is_utc_with_milliseconds() -> None:
    assert time_text(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123Z"
