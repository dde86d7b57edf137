"""eda.handling.failure_log: which event failed is told, in one line, one record for a call, and at a bounded rate."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest

import eda
import eda.handling.failure_log
from eda._codec import decode_event, encode_event
from eda.handling.failure_log import FailureLog
from eda.handling.verdicts import Exhausted, Misfit, Undecodable
from helpers import Logged, until
from support.packs import events_of_pack
from support.reference import delivered

EVIL = "id\nCRITICAL paid twice\x1b[31m\u2028\u202e\x85"


def event_of(sequence: int = 7, attempt: int = 2, **fields: str) -> eda.Event:
    event = eda.Event(**({"id": "id-1", "type": "t"} | fields))  # type: ignore[arg-type]
    return delivered(decode_event(encode_event(event)), "orders", sequence, attempt)


def foreign(sequence: int = 7) -> eda.Event:
    """Return an event whose id and type no eda would write."""
    envelope = b"".join(bytes([tag]) + bytes([len(EVIL.encode())]) + EVIL.encode() for tag in (0x0A, 0x1A))
    return delivered(decode_event(envelope), "orders", sequence, 2)


def log_of(dead_letter: str | None = "orders-dead") -> FailureLog:
    return FailureLog(logging.getLogger("eda"), "orders", "billing", dead_letter)


FIELDS = {
    "eda_stream": "orders",
    "eda_subscription": "billing",
    "eda_sequence": 7,
    "eda_event_id": "id-1",
    "eda_type": "t",
    "eda_attempt": 2,
}


def undecodable(text: str = "no such tag") -> Undecodable:
    error = Undecodable()
    error.__cause__ = eda.DecodeError("envelope", text)
    return error


TOLD = {
    "again": (ValueError("x"), 0.5, "handler failed .* attempt 2.; it is handled again in 0.5 s", True),
    "last": (ValueError("x"), None, "handler failed .* for the last time; it is to be stored in .* orders-dead", True),
    "rejected": (eda.Reject("never"), None, "rejected event id-1 .* stored in .* orders-dead: never", False),
    "undecodable": (
        undecodable(),
        None,
        "sequence 7 is not an event; for subscription billing .*no such tag",
        False,
    ),
    "exhausted": (Exhausted(), None, "was tried 1 times by processes that died", False),
}


@pytest.mark.parametrize(("error", "delay_s", "text", "has_traceback"), TOLD.values(), ids=TOLD)
async def test_failure_when_told_names_the_event_and_the_subscription_also_as_fields(
    logged: Logged, error: Exception, delay_s: float | None, text: str, has_traceback: bool
) -> None:
    logged.expect(text)
    log_of().log_failed([event_of()], [error], [delay_s])
    (record,) = logged.find(text, logging.ERROR)
    assert {name: getattr(record, name) for name in FIELDS} == FIELDS
    assert "subscription billing" in record.getMessage()
    assert "sequence 7" in record.getMessage()
    assert (record.exc_info is not None) == has_traceback


@pytest.mark.parametrize("error", [ValueError("x"), eda.Reject(EVIL), undecodable(EVIL), Exhausted()], ids=repr)
async def test_line_when_a_peer_wrote_what_is_in_it_stays_one_line(logged: Logged, error: Exception) -> None:
    logged.expect("handler|not an event|not events|(was|were) tried")
    log = log_of()
    for _ in range(eda.handling.failure_log.BURST + 1):
        log.log_failed([foreign()], [error], [None])
    log.log_not_stored(foreign(), eda.ServerError(503, 0, EVIL), 1.0)
    log.log_unstorable(foreign(), ValueError(EVIL))
    log.log_overrun(foreign(), 1.0, 0.5)
    log.flush()
    logged.allow("dead-letter stream")
    assert len(logged.records) == eda.handling.failure_log.BURST + 5 - 1
    for record in logged.records:
        texts = [record.getMessage(), *(str(getattr(record, name)) for name in FIELDS)]
        assert all(text.isprintable() for text in texts), texts


async def test_batch_when_it_fails_is_one_record_with_its_ends(logged: Logged) -> None:
    logged.expect("handler failed for 3 events of a batch .*sequences 7 to 9.; they are handled again in 2 s")
    error = ConnectionError("away")
    log_of().log_failed([event_of(seq) for seq in (8, 7, 9)], [error] * 3, [1.0, 2.0, 1.0])
    (record,) = logged.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    ends = [getattr(record, f"eda_{name}") for name in ("sequence", "last_sequence", "count", "subscription")]
    assert ends == [7, 9, 3, "billing"]


def packed(sequence: int, n: int = 1, attempt: int = 2) -> list[eda.Event]:
    return events_of_pack([eda.Event(type="t")] * n, "orders", sequence, attempt)


def place_fields(record: logging.LogRecord) -> dict[str, int]:
    names = ("eda_sequence", "eda_index", "eda_last_sequence", "eda_last_index")
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


@pytest.mark.parametrize(
    ("error", "delay_s", "text"),
    [
        (ValueError("x"), 0.5, r"handler failed for event e2 .*sequence 7\.2, attempt 2"),
        (ValueError("x"), None, r"handler failed for event e2 .*sequence 7\.2, attempt 2.*for the last time"),
        (eda.Reject("never"), None, r"rejected event e2 .*sequence 7\.2, attempt 2"),
        (undecodable(), None, r"the envelope in stream orders, sequence 7\.2 is not an event; for subscription"),
        (Exhausted(), None, r"event e2 .*sequence 7\.2\) was tried 1 times"),
    ],
)
async def test_event_of_pack_when_it_fails_is_named_by_its_place(
    logged: Logged, error: Exception, delay_s: float | None, text: str
) -> None:
    logged.expect(text)
    log_of().log_failed([packed(7, 3)[2]], [error], [delay_s])
    (record,) = logged.records
    assert place_fields(record) == {"eda_sequence": 7, "eda_index": 2}


async def test_event_of_pack_when_other_things_go_wrong_is_named_by_its_place(logged: Logged) -> None:
    logged.expect("dead-letter stream", "ignores its cancellation")
    log, event = log_of(), packed(7, 3)[2]
    log.log_not_stored(event, eda.ServerError(503, 0, "full"), 1.0)
    log.log_unstorable(event, ValueError("x"))
    log.log_overrun(event, 1.0, 0.5)
    log.log_uncancelled(event, 1.0)
    assert len(logged.find(r"subscription billing, sequence 7\.2, attempt 2")) == len(logged.records) == 4
    assert [place_fields(record) for record in logged.records] == [{"eda_sequence": 7, "eda_index": 2}] * 4


@pytest.mark.parametrize(
    ("events", "ends", "fields"),
    [
        (packed(7, 12)[:1:-1], "7.2 to 7.11", {"sequence": 7, "index": 2, "last_sequence": 7, "last_index": 11}),
        (
            [packed(9, 2)[1], packed(8, 3)[2]],
            "8.2 to 9.1",
            {"sequence": 8, "index": 2, "last_sequence": 9, "last_index": 1},
        ),
        ([packed(9)[0], event_of(8)], "8 to 9.0", {"sequence": 8, "last_sequence": 9, "last_index": 0}),
        ([packed(9)[0], event_of(10)], "9.0 to 10", {"sequence": 9, "index": 0, "last_sequence": 10}),
    ],
)
async def test_batch_when_it_has_events_of_packs_is_one_record_with_the_places_of_its_ends(
    logged: Logged, events: list[eda.Event], ends: str, fields: dict[str, int]
) -> None:
    n = len(events)
    logged.expect(*(f"{what} .*sequences {re.escape(ends)}\\)" for what in ("handler failed", "rejected", "payloads")))
    misfit = Misfit()
    misfit.__cause__ = eda.DecodeError("json", "x")
    for error in (ValueError("x"), eda.Reject("no"), misfit):
        log_of().log_failed(events, [error] * n, [None] * n)
    assert len(logged.records) == 3
    for record in logged.records:
        assert place_fields(record) == {f"eda_{name}": number for name, number in fields.items()}


async def test_summary_when_the_last_event_is_of_a_pack_names_its_place(logged: Logged) -> None:
    logged.expect("handler failed")
    log = log_of()
    for event in packed(7, 30):
        log.log_failed([event], [ValueError("x")], [1.0])
    log.flush()
    (summary,) = logged.find(r"the last is event e29 .*sequence 7\.29, attempt 2")
    assert place_fields(summary) == {"eda_sequence": 7, "eda_index": 29}


async def test_batch_when_some_fail_for_the_last_time_and_some_are_rejected_is_two_records(logged: Logged) -> None:
    logged.expect(
        "handler failed for 2 events of a batch .* 1 of them for the last time, and is to be stored .*; the others are "
        "handled again in 1 s",
        "handler rejected 2 events of a batch .*sequences 3 to 4.; they are to be stored .*: no",
    )
    errors = [ValueError("x"), ValueError("y"), eda.Reject("no"), eda.Reject("no")]
    log_of().log_failed([event_of(seq) for seq in (1, 2, 3, 4)], errors, [None, 1.0, None, None])
    assert len(logged.records) == 2


async def test_dead_letter_when_there_is_none_is_said_to_be_skipped(logged: Logged) -> None:
    logged.expect("which is skipped, as dead_letter is None: no")
    log_of(None).log_failed([event_of()], [eda.Reject("no")], [None])


async def test_failures_when_there_are_too_many_are_counted_and_summed_up(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged.expect(
        "handler failed", "handler failed for 9.. more events in .*; the last is event id-1 .*ValueError: 999"
    )
    monkeypatch.setattr(eda.handling.failure_log, "SUMMARY_S", 0.1)
    log = log_of()
    for n in range(1000):
        log.log_failed([event_of(n)], [ValueError(str(n))], [1.0])
    await until(lambda: logged.find("more events"))
    (summary,) = logged.find("more events")
    assert len(logged.records) - 1 + summary.eda_left_out == 1000  # type: ignore[attr-defined]
    assert len(logged.records) < 20
    assert (summary.eda_sequence, summary.exc_info) == (999, None)  # type: ignore[attr-defined]
    await asyncio.sleep(0.2)
    assert len(logged.find("more events")) == 1
    log.flush()
    assert len(logged.find("more events")) == 1


async def test_failures_when_closed_are_summed_up_at_once_each_kind_for_itself(logged: Logged) -> None:
    logged.expect("handler failed", "rejected")
    log = log_of()
    for _ in range(50):
        log.log_failed([event_of()] * 10, [ValueError("x")] * 10, [1.0] * 10)
        log.log_failed([event_of()], [eda.Reject("no")], [None])
    log.flush()
    failed, rejected = logged.find("more events")
    n_told = len(logged.find("handler failed for 10 events"))
    assert (failed.eda_left_out, rejected.eda_left_out) == (500 - 10 * n_told, 40)  # type: ignore[attr-defined]
