"""eda.handling.dispatcher_host: what becomes of a failed event, what the log is told, and the timer of retries."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

import eda
from eda._codec import decode_event, encode_event
from eda.handling.dead_lettering import DEAD
from eda.handling.dispatcher_host import DispatcherHost
from eda.handling.verdicts import Exhausted, Undecodable
from eda.options import Retry, SubscriptionOptions
from helpers import Logged, until
from support.packs import events_of_pack
from support.reference import delivered

NS = 10**9
PAYLOAD = encode_event(eda.Event(id="id-1", type="t", aggregate="a"))
ONE, TWO = (delivered(decode_event(PAYLOAD), "orders", 7, attempt) for attempt in (1, 2))
OTHER = delivered(decode_event(encode_event(eda.Event(id="id-2"))), "orders", 8, 1)


class Bench:
    """A host whose dead letters are kept, or refused."""

    def __init__(self, stream: str = "orders", **options: Any) -> None:
        self.stored: list[tuple[str, dict[str, Any]]] = []
        self.refusal: Exception | None = None
        self.ended: list[Exception] = []
        settings = SubscriptionOptions(**options)
        self.host = DispatcherHost(logging.getLogger("eda"), stream, "billing", settings, self._bury, self.ended.append)

    async def _bury(self, into: str, **letter: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.stored.append((into, letter))

    async def fail(self, error: BaseException, event: eda.Event = ONE) -> int:
        """Do what a dispatcher does with a failed event; returns the delay, or DEAD."""
        (delay_ns,) = self.host.on_failures([event], [error])
        return delay_ns if delay_ns >= 0 else await self.host.store_dead_letter(event, PAYLOAD, error)


def undecodable() -> Undecodable:
    error = Undecodable()
    error.__cause__ = eda.DecodeError("envelope", "no such tag")
    return error


# --- again, or dead --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError(), eda.Timeout("handler", 1.0)], ids=repr)
@pytest.mark.parametrize(("event", "delay_ns"), [(ONE, NS // 2), (TWO, NS)], ids=["first", "second"])
async def test_failure_when_attempts_are_left_comes_again_after_the_delay(
    logged: Logged, error: BaseException, event: eda.Event, delay_ns: int
) -> None:
    logged.expect("handler failed for event id-1 of type 't'")
    bench = Bench(retry=Retry(initial_s=0.5, max_attempts=3))
    assert await bench.fail(error, event) == delay_ns
    assert bench.stored == []
    (record,) = logged.find(rf"sequence 7, attempt {event.attempt}\); it is handled again in {delay_ns / NS:g} s")
    assert record.exc_info is not None
    assert record.exc_info[1] is error


WHY_DEAD = {
    "attempts": (ValueError("x"), "attempts", "ValueError: x", 2, "for the last time"),
    "rejected": (eda.Reject("never"), "rejected", "never", 2, "rejected event id-1"),
    "undecodable": (undecodable(), "undecodable", "no such tag", 2, "sequence 7 is not an event"),
    "exhausted": (Exhausted(), "attempts", "no attempt ended", 1, "was tried 1 times by processes that died"),
}


@pytest.mark.parametrize(("error", "reason", "text", "attempts", "told"), WHY_DEAD.values(), ids=WHY_DEAD)
async def test_failure_when_it_is_for_good_is_told_and_stored_with_its_reason(
    logged: Logged, error: Exception, reason: str, text: str, attempts: int, told: str
) -> None:
    logged.expect(told)
    bench = Bench(retry=Retry(max_attempts=2))
    assert await bench.fail(error, TWO) == DEAD
    ((stream, letter),) = bench.stored
    assert stream == "orders-dead"
    assert text in letter.pop("error")
    event = {"event_type": "t", "aggregate": "a", "payload": PAYLOAD, "stream": "orders", "sequence": 7}
    event["index"] = None
    event |= {"subject": TWO.subject, "foreign": TWO.headers}
    event |= {"event_id": TWO.id if reason == "undecodable" else ""}  # an undecodable one has it from its headers
    assert letter == event | {"reason": reason, "subscription": "billing", "attempts": attempts}
    assert (bench.host.dead_letters.n_stored, bench.host.dead_letters.n_discarded) == (1, 0)


async def test_event_of_pack_when_it_fails_for_good_is_stored_with_its_index_alone(logged: Logged) -> None:
    logged.expect(r"rejected event e1 .*sequence 7\.1, attempt 2")
    bench = Bench()
    event = events_of_pack([eda.Event(type="a"), eda.Event(type="t", aggregate="a")], "orders", 7, 2)[1]
    assert await bench.fail(eda.Reject("never"), event) == DEAD
    ((_, letter),) = bench.stored
    assert (letter["sequence"], letter["index"], letter["attempts"]) == (7, 1, 2)
    assert (letter["event_type"], letter["aggregate"], letter["event_id"]) == ("t", "a", "")
    assert letter["subject"] == ""  # not that of the pack


async def test_letters_when_two_events_of_a_pack_can_not_be_stored_are_tried_again_each_for_itself(
    logged: Logged,
) -> None:
    logged.expect(
        "rejected event", r"did not store event e1 .*sequence 7\.1", r"did not store event e0 .*sequence 7\.0"
    )
    bench = Bench()
    bench.refusal = eda.ServerError(503, 0, "full")
    first, second = events_of_pack([eda.Event(type="t")] * 2, "orders", 7, 1)
    for _ in range(3):
        delay_ns = await bench.fail(eda.Reject("never"), second)
    assert delay_ns == 2 * NS
    assert await bench.fail(eda.Reject("never"), first) == NS // 2
    bench.refusal = None
    assert await bench.fail(eda.Reject("never"), second) == DEAD
    bench.refusal = eda.ServerError(503, 0, "full")
    assert await bench.fail(eda.Reject("never"), first) == NS


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


async def test_dead_letter_when_its_error_has_no_text_names_the_error(logged: Logged) -> None:
    logged.expect("for the last time")
    bench = Bench(retry=Retry(max_attempts=1))
    assert await bench.fail(Unprintable()) == DEAD
    assert [letter["error"] for _, letter in bench.stored] == ["Unprintable"]


class NoReason(eda.Reject):
    def __init__(self, code: int) -> None:
        self.code = code  # without super().__init__, so it has no reason


async def test_dead_letter_when_its_rejection_has_no_text_names_the_error(logged: Logged) -> None:
    logged.expect("handler rejected event .*: NoReason$")
    bench = Bench()
    assert await bench.fail(NoReason(7)) == DEAD
    assert [(letter["reason"], letter["error"]) for _, letter in bench.stored] == [("rejected", "NoReason")]


async def test_dead_letter_when_its_stream_does_not_take_it_is_to_be_tried_again(logged: Logged) -> None:
    logged.expect("rejected event id-1", "orders-dead did not store event id-1 .*, which stays where it is: .*full")
    bench = Bench()
    bench.refusal = eda.ServerError(503, 0, "full")
    assert [await bench.fail(eda.Reject("never")) / NS for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert (bench.host.dead_letters.n_stored, bench.host.dead_letters.n_discarded) == (0, 0)
    bench.refusal = None
    assert await bench.fail(eda.Reject("never")) == DEAD
    assert bench.host.dead_letters.n_stored == 1


@pytest.mark.parametrize(
    ("stream", "options", "to"),
    [
        ("orders", {}, "orders-dead"),
        ("orders-dead", {}, None),
        ("orders-dead", {"dead_letter": "worse"}, "worse"),
        ("orders", {"dead_letter": None}, None),
        ("orders", {"dead_letter": "x-{stream}"}, "x-orders"),
    ],
)
async def test_dead_letter_when_there_is_no_stream_for_it_is_told_and_passed_over(
    logged: Logged, stream: str, options: dict[str, Any], to: str | None
) -> None:
    logged.expect("rejected event id-1")
    bench = Bench(stream, **options)
    assert await bench.fail(eda.Reject("never")) == DEAD
    assert [into for into, _ in bench.stored] == ([to] if to else [])
    assert (bench.host.dead_letters.n_stored, bench.host.dead_letters.n_discarded) == ((1, 0) if to else (0, 1))


# --- batches ---------------------------------------------------------------------------------------------------------


async def test_batch_when_it_fails_in_part_has_the_errors_of_those_that_failed() -> None:
    error = ValueError("x")
    partial = eda.PartialFailure({OTHER: error})
    assert Bench(batch=2).host.errors_of([ONE, OTHER], partial) == [None, error]
    assert Bench().host.errors_of([ONE], partial) == [partial]  # of a handler of single events it says nothing
    assert Bench(batch=2).host.errors_of([ONE, OTHER], error) == [error, error]


async def test_batch_when_a_partial_failure_names_none_of_it_fails_as_a_whole() -> None:
    errors = Bench(batch=2).host.errors_of([ONE, TWO], eda.PartialFailure({OTHER: ValueError("x")}))
    assert [type(error) for error in errors] == [eda.ConfigError, eda.ConfigError]


# --- what the dispatcher asks for ------------------------------------------------------------------------------------


async def test_errors_when_asked_for_say_what_happened() -> None:
    host = Bench(timeout_s=2.5).host
    cause = asyncio.CancelledError()
    overdue = host.overdue_error(ONE, cause)
    assert isinstance(overdue, eda.Timeout)
    assert (overdue.timeout_s, overdue.event_id, overdue.__cause__) == (2.5, "id-1", cause)
    assert isinstance(host.cancelled_error(), asyncio.CancelledError)
    assert isinstance(host.refuse(each for each in ()), TypeError)
    assert host.refuse(5) is None


async def test_plain_function_when_it_took_too_long_is_told_of(logged: Logged) -> None:
    Bench(timeout_s=2.5).host.on_overrun(ONE, 7.25)
    assert logged.find(
        r"the handler took 7.25 s for event id-1 .* subscription billing.* over timeout_s=2.5: .*eda.threaded"
    )


async def test_future_when_nobody_sets_it_is_done_in_time() -> None:
    host = Bench().host
    began = time.monotonic()
    await host.make_future_within(0.02)
    assert 0.015 < time.monotonic() - began < 5
    early = host.make_future_within(0.001)
    early.set_result(None)
    late = host.make_future_within(0.002)
    late.cancel()
    await host.make_future_within(0.01)  # neither is set again


# --- the timer -------------------------------------------------------------------------------------------------------


class Dispatcher:
    """Has something to try again at times that are known beforehand."""

    def __init__(self, *later_s: float) -> None:
        self.later_s = list(later_s)
        self.called_at: list[float] = []

    def take_due(self) -> float | None:
        self.called_at.append(time.monotonic())
        return self.later_s.pop(0) if self.later_s else None


def timed(*later_s: float) -> tuple[DispatcherHost, Dispatcher]:
    host, dispatcher = Bench().host, Dispatcher(*later_s)
    host.use(dispatcher)  # type: ignore[arg-type]
    return host, dispatcher


async def test_retry_when_several_are_asked_for_comes_with_the_earliest_and_goes_on_with_what_is_next() -> None:
    host, dispatcher = timed(0.03, 0.03)
    began = time.monotonic()
    for delay_s in (3600.0, 0.02, 60.0):
        host.on_retry(delay_s)
    await until(lambda: len(dispatcher.called_at) == 3)
    assert dispatcher.called_at[0] - began < 5
    assert dispatcher.called_at[2] - began >= 0.075
    await asyncio.sleep(0.05)
    assert len(dispatcher.called_at) == 3


@pytest.mark.parametrize("before", [True, False])
async def test_retry_when_closed_does_not_come(before: bool) -> None:
    host, dispatcher = timed()
    if before:
        host.on_retry(0.001)
    host.close()
    host.on_retry(0.001)  # of a handler that ends while the subscription closes
    await asyncio.sleep(0.02)
    assert dispatcher.called_at == []
