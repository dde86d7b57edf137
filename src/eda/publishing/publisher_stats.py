"""The counts of a publisher."""

from __future__ import annotations

from eda.publishing._publisher_core import PublisherCore
from eda.publishing.outcomes import Outcomes
from eda.stats import Histogram, PublisherStats

__all__ = ["stats_of"]


def stats_of(core: PublisherCore | None, mode: str, outcomes: Outcomes) -> PublisherStats:
    """Return the counts of a publisher with this core; None: it is not open yet."""
    if core is None:
        return PublisherStats(0, 0, 0, 0, 0, 0, mode)
    return PublisherStats(
        sent=core.n_accepted,
        acknowledged=core.n_acknowledged,
        resent=core.n_resent,
        failed=core.n_failed,
        pending=core.n_accepted - core.n_acknowledged - core.n_failed,
        pending_bytes=core.n_bytes,
        mode=mode,
        packs=core.n_packs,
        in_open_pack=core.n_open,
        max_pending=core.max_pending,
        max_pending_bytes=core.max_bytes,
        oldest_pending_s=core.oldest_age_s(),
        publishing=Histogram(*core.durations.read()),
        errors=dict(outcomes.errors.counts),
    )
