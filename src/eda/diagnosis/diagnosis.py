"""Reads the facts and runs all checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eda.diagnosis.account_checks import check_account
from eda.diagnosis.durability_checks import check_bucket, check_durability, check_silent
from eda.diagnosis.facts import Facts, StreamFacts, read_facts
from eda.diagnosis.finding import Finding
from eda.diagnosis.limit_checks import check_limits
from eda.diagnosis.server_checks import check_server
from eda.diagnosis.stream_checks import check_stream
from eda.diagnosis.subject_checks import check_subjects
from eda.diagnosis.subscription_checks import check_dead_letters, check_subscriptions
from eda.jetstream.api import Api

__all__ = ["diagnose"]


async def diagnose(api: Api, names: Iterable[str] | None) -> list[Finding]:
    """Return all findings: about the server, the account, the streams without a leader, then each other one by name.

    Raises StreamNotFound, ServerError, Timeout, Closed.
    """
    return list(_findings(await read_facts(api, names)))


def _findings(facts: Facts) -> Iterator[Finding]:
    yield from check_server(facts)
    yield from check_account(facts)
    yield from check_bucket(facts)
    yield from check_silent(facts)
    for stream in facts.examined:
        yield from _of_stream(facts, stream)


def _of_stream(facts: Facts, stream: StreamFacts) -> Iterator[Finding]:
    yield from check_stream(facts, stream)
    yield from check_subjects(facts, stream)
    yield from check_durability(stream)
    yield from check_limits(stream)
    yield from check_subscriptions(stream)
    yield from check_dead_letters(facts, stream)
