"""eda.recent_problems: the latest warnings and errors, and the last one of each stream, subscription and so on."""

from __future__ import annotations

import logging
from typing import Any

from eda.recent_problems import MAX_KEPT, MAX_SUBJECTS, MAX_TEXT, Problem, RecentProblems
from eda.times import time_text


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


class Noting(dict[str, Any]):
    """Fields whose read notes a problem, as a finalizer or another thread may at that moment."""

    problems: RecentProblems

    def get(self, key: str, default: Any = None) -> Any:
        self.problems.note(logging.ERROR, "meanwhile", None, {"eda_stream": f"s-{len(self.problems._last_of)}"})
        return super().get(key, default)


def test_last_of_when_a_problem_is_noted_meanwhile_is_of_those_noted_before() -> None:
    problems = noted("a", eda_stream="a")
    fields = Noting(eda_stream="b")
    fields.problems = problems
    problems._last_of["b",] = Problem(0, logging.ERROR, "b", fields)
    found = problems.last_of(eda_stream="a")
    assert found is not None
    assert found.text == "a"
    assert len(problems._last_of) == 3


class NotingName(str):
    """The name of a stream whose next comparison by hash notes another problem."""

    __slots__ = ("problems",)
    problems: RecentProblems | None

    def __hash__(self) -> int:
        problems, self.problems = self.problems, None
        if problems is not None:
            problems.note(logging.ERROR, "meanwhile", None, {"eda_stream": "meanwhile"})
        return super().__hash__()


def test_note_when_another_thread_removes_the_oldest_first_keeps_the_newest() -> None:
    problems = RecentProblems()
    oldest = NotingName("oldest")
    oldest.problems = None
    problems.note(logging.ERROR, "x", None, {"eda_stream": oldest})
    for n in range(MAX_SUBJECTS - 1):
        problems.note(logging.ERROR, "x", None, {"eda_stream": str(n)})
    oldest.problems = problems
    problems.note(logging.ERROR, "last", None, {"eda_stream": "last"})
    assert len(problems._last_of) <= MAX_SUBJECTS
    assert problems.last_of(eda_stream="oldest") is None
    assert problems.last_of(eda_stream="last") is not None
    assert problems.last_of(eda_stream="meanwhile") is not None
