"""eda.cli.top_rates: the rates between two looks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import eda
from eda.cli.top_rates import Look, Rates, StreamRow

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def stream(name: str, last: int, **others: Any) -> eda.StreamInfo:
    return eda.StreamInfo(
        name=name, events=last, bytes=0, first_sequence=1, last_sequence=last, subjects=(),
        options=eda.StreamOptions(), atomic=False, fast_ingest=False, **{"created": CREATED} | others,
    )  # fmt: skip


def subscription(position: int, lag: int | None) -> eda.SubscriptionInfo:
    return eda.SubscriptionInfo(
        name="n", stream="s", kind="ordered", position=position, lag=lag, lag_s=None, holder=None, standbys=None,
        in_flight=None, redelivered=None, updated=None,
    )  # fmt: skip


def look(at: float, *streams: eda.StreamInfo, sub: eda.SubscriptionInfo | None = None) -> Look:
    found = Look(at, {each.name: each for each in streams}, ("s",))
    if sub is not None:
        found.subscriptions["s", "n", "ordered"] = sub
    return found


def only(rows: list[StreamRow]) -> StreamRow:
    (row,) = rows
    return row


def test_rows_when_two_looks_differ_have_rates() -> None:
    rates = Rates(look(10.0, stream("s", 100), sub=subscription(50, 50)))
    row = only(rates.rows(look(12.0, stream("s", 120), sub=subscription(60, 60))))
    assert row.in_s == 10.0
    (sub,) = row.subscriptions
    assert (sub.out_s, sub.trend_s) == (5.0, 5.0)


def test_rows_when_nothing_is_known_from_before_have_no_rates() -> None:
    first = look(10.0, stream("s", 100), sub=subscription(50, 50))
    rates = Rates(first)
    row = only(rates.rows(first))
    assert (row.in_s, row.subscriptions[0].out_s, row.subscriptions[0].trend_s) == (None, None, None)
    made_again = replace(stream("s", 5), created=datetime(2026, 2, 1, tzinfo=UTC))
    assert only(rates.rows(look(11.0, made_again))).in_s is None


def test_rows_when_a_position_was_moved_back_or_the_lag_is_unknown_say_nothing_wrong() -> None:
    rates = Rates(look(10.0, stream("s", 100), sub=subscription(50, 50)))
    (sub,) = only(rates.rows(look(11.0, stream("s", 100), sub=subscription(10, None)))).subscriptions
    assert (sub.out_s, sub.trend_s) == (0.0, None)


def test_rows_when_dead_letters_come_count_them_from_the_first_look() -> None:
    rates = Rates(look(10.0, stream("s", 100)))
    row = only(rates.rows(look(11.0, stream("s", 100), stream("s-dead", 3))))
    assert (row.dead, row.dead_added) == (3, 3)
    row = only(rates.rows(look(12.0, stream("s", 100), stream("s-dead", 5))))
    assert (row.dead, row.dead_added) == (5, 5)
    rates = Rates(look(10.0, stream("s", 100), stream("s-dead", 7)))
    assert only(rates.rows(look(11.0, stream("s", 100), stream("s-dead", 9)))).dead_added == 2
