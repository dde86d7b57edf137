"""The counts of `conn.publish` for one stream."""

from __future__ import annotations

from eda.publishing._message_sender import MessageSender
from eda.stats import Histogram, PublisherStats

__all__ = ["stats_of_sender"]


def stats_of_sender(sender: MessageSender) -> PublisherStats:
    """Return the counts of `conn.publish` for one stream. Any thread may call it."""
    window = sender.window
    pending = window.n_pending
    failed = sum(list(sender.errors.counts.values()))
    return PublisherStats(
        sent=sender.n_acknowledged + failed + pending,
        acknowledged=sender.n_acknowledged,
        resent=sender.n_resent,
        failed=failed,
        pending=pending,
        pending_bytes=window.n_bytes,
        mode="",
        oldest_pending_s=sender.oldest_age_s(),
        publishing=Histogram(*sender.durations.read()),
        errors=dict(sender.errors.counts),
        open=0,
    )
