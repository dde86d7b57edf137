"""A scrape and the records of durations that come with 150,000 events."""

from __future__ import annotations

from collections.abc import Callable

from micro.telemetry.metrics import CONTENDERS, N_EVENTS


def test_a_round_counts_its_events() -> None:
    contender = CONTENDERS["scraped_and_recorded"]()
    for n in (1, 2):
        text = contender.run().decode()
        assert f'eda_subscription_handled_events_total{{stream="s",subscription="n"}} {n * N_EVENTS / 1.0}' in text
        assert f'eda_publish_duration_seconds_count{{stream="s"}} {n * N_EVENTS / 1.0}' in text


def test_metrics(contest: Callable[..., None]) -> None:
    contest("telemetry.metrics", "scraped_and_recorded")
