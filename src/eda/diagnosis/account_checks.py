"""Checks of the account: its limits, and how much of them is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eda.amounts import size_text
from eda.diagnosis.facts import Facts
from eda.diagnosis.finding import Finding, counted, share
from eda.jetstream.consumer_settings import MAX_ACK_PENDING

__all__ = ["check_account"]

NEARLY_FULL = 0.8
FULL = 0.95


def check_account(facts: Facts) -> Iterator[Finding]:
    """Yield what is found about the account. An account with limits by replicas has tiers, each with its own limits."""
    account = facts.account
    tiers = account.get("tiers") or {}
    findings = list(_tier(account, "The account"))
    for name, tier in sorted(tiers.items()):
        findings += _tier(tier, f"The tier {name} of the account")
    if facts.others:
        findings.append(_others(facts.others))
    if not any(each.severity in ("warning", "problem") for each in findings):
        used = f"{counted(account.get('streams', 0), 'stream')} and {counted(account.get('consumers', 0), 'consumer')}"
        stored = f"{size_text(account.get('storage', 0))} on disk and {size_text(account.get('memory', 0))} in memory"
        yield Finding(severity="ok", check="account", message=f"The account has {used}, with {stored}.")
    yield from findings


def _tier(tier: dict[str, Any], who: str) -> Iterator[Finding]:
    limits = tier.get("limits") or {}
    amounts = (
        ("storage", max(tier.get("storage", 0), tier.get("reserved_storage", 0)), limits.get("max_storage", -1), True),
        ("memory", max(tier.get("memory", 0), tier.get("reserved_memory", 0)), limits.get("max_memory", -1), True),
        ("streams", tier.get("streams", 0), limits.get("max_streams", -1), False),
    )
    for what, used, limit, is_size in amounts:
        if limit is None or limit <= 0 or used < NEARLY_FULL * limit:
            continue
        shown = f"{size_text(used)} of {size_text(limit)}" if is_size else f"{used} of {limit}"
        then = "refuses to store events" if is_size else "refuses to create more"
        yield Finding(
            severity="problem" if used >= FULL * limit else "warning",
            check=f"account_{what}",
            message=f"{who} uses {shown} {what} ({share(used, limit)}). At the limit the server {then}.",
            advice=f"Raise the account's limit for {what}, or remove what is not needed.",
        )
    if limits.get("max_bytes_required"):
        yield Finding(
            severity="note",
            check="account_max_bytes_required",
            message=f"{who} needs max_bytes for each stream, so eda can't create a stream by default.",
            advice="Give max_bytes: eda.connect(stream_defaults=eda.StreamOptions(max_bytes=...)).",
        )
    most = limits.get("max_ack_pending", -1)
    if 0 < most < MAX_ACK_PENDING:
        yield Finding(
            severity="note",
            check="account_max_ack_pending",
            message=f"{who} allows {most} unacknowledged events for all members of a shared subscription together.",
            advice="If members wait for events, raise the account's max_ack_pending.",
        )
    for kind, field in (("file", "storage_max_stream_bytes"), ("memory", "memory_max_stream_bytes")):
        if limits.get(field, -1) > 0:
            yield Finding(
                severity="note",
                check="account_max_stream_bytes",
                message=f"{who} allows at most {size_text(limits[field])} for each stream with {kind} storage.",
            )


def _others(names: list[str]) -> Finding:
    return Finding(
        severity="ok",
        check="other_streams",
        message=f"{counted(len(names), 'stream')} of other programs or of eda itself, such as buckets: not examined.",
    )
