"""eda.handling.misfits: an event whose payload can't be decoded is given up at once; all other failures are retried."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import eda
from eda._codec import decode_event, encode_event
from eda.handlers import GivenBack
from eda.handling.dead_lettering import DEAD
from eda.handling.dispatcher_host import DispatcherHost
from eda.handling.misfits import find_misfits
from eda.handling.verdicts import Alone, Misfit
from eda.options import Retry, SubscriptionOptions
from helpers import Logged, until
from support.handling.dispatching import Rig, delivery, settle
from support.reference import delivered

Make = Callable[..., Rig]
TERM = b"+TERM undecodable"


def event_of(event_id: str, sequence: int = 7, attempt: int = 1) -> eda.Event:
    event = eda.Event(id=event_id, type="t", schema="2", data=eda.JSON({"a": 1}))
    return delivered(decode_event(encode_event(event)), "orders", sequence, attempt)


ONE, TWO, THREE = event_of("id-1", 1), event_of("id-2", 2), event_of("id-3", 3)
NAMELESS, OTHER_NAMELESS = event_of("", 4), event_of("", 5)


def decode_error(event_id: str = "id-1", cause: BaseException | None = None) -> eda.DecodeError:
    error = eda.DecodeError("json", "`a` is not a text", event_id=event_id)
    error.__cause__ = cause
    return error


def chained(first: BaseException, *rest: BaseException, explicit: bool = True) -> BaseException:
    """Return `first` with the chain of its causes; with `explicit` False, of its contexts."""
    inner = first
    for each in rest:
        if explicit:
            inner.__cause__ = each
        else:
            inner.__context__ = each
        inner = each
    return first


def both(*ids: str) -> ExceptionGroup[eda.DecodeError]:
    return ExceptionGroup("tasks", [decode_error(each) for each in ids])


def kinds(found: Sequence[BaseException | None] | None) -> list[type | None] | None:
    return None if found is None else [None if each is None else type(each) for each in found]


# --- which error is about which event --------------------------------------------------------------------------------

FINAL = {
    "decode": decode_error(),
    "unknown encoding": eda.UnknownEncoding("csv", event_id="id-1"),
    "validation": decode_error(cause=ValueError("no")),
    "chain of causes": decode_error(cause=chained(ValueError("a"), TypeError("b"), KeyError("c"))),
    "group": ExceptionGroup("tasks", [decode_error()]),
    "nested group": ExceptionGroup("tasks", [ExceptionGroup("more", [decode_error(), decode_error()])]),
}
ORDINARY = {
    "another event": decode_error("id-9"),
    "no id": decode_error(""),
    "encode": eda.EncodeError("json", "X", "no", event_id="id-1"),
    "encode with an unknown encoding": eda.UnknownEncoding("csv", event_id="id-1", value_type="dict"),
    "another error": ValueError("no"),
    "wrapped": chained(RuntimeError("could not read it"), decode_error()),
    "timed out": chained(eda.Timeout("handler", 1.0, event_id="id-1"), decode_error()),
    "group with another error": ExceptionGroup("tasks", [decode_error(), ValueError("no")]),
    "group with another event": ExceptionGroup("tasks", [decode_error(), decode_error("id-9")]),
    "registry is down": decode_error(cause=ConnectionRefusedError()),
    "registry is slow": decode_error(cause=TimeoutError()),
    "file": decode_error(cause=FileNotFoundError()),
    "memory": decode_error(cause=MemoryError()),
    "behind another error": decode_error(cause=chained(KeyError("schema"), OSError("down"))),
    "in the context": decode_error(cause=chained(KeyError("schema"), OSError("down"), explicit=False)),
    "no leader": decode_error(cause=eda.ServerError(503, 10008, "no leader")),
}


@pytest.mark.parametrize("error", FINAL.values(), ids=FINAL)
def test_error_when_it_is_about_the_event_is_a_misfit_with_it_as_cause(error: Exception) -> None:
    found = find_misfits([ONE], error)
    assert found is not None
    assert kinds(found) == [Misfit]
    assert isinstance(found[0].__cause__, eda.CodecError)


@pytest.mark.parametrize("error", ORDINARY.values(), ids=ORDINARY)
def test_error_when_it_may_pass_or_is_about_another_event_is_an_ordinary_failure(error: Exception) -> None:
    assert find_misfits([ONE], error) is None


def test_error_when_its_causes_are_a_circle_is_looked_at_once() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert kinds(find_misfits([ONE], decode_error(cause=first))) == [Misfit]


def test_error_when_its_context_is_hidden_does_not_count() -> None:
    cause = chained(KeyError("schema"), OSError("down"), explicit=False)
    cause.__suppress_context__ = True
    assert kinds(find_misfits([ONE], decode_error(cause=cause))) == [Misfit]


@pytest.mark.parametrize(
    ("events", "error", "wanted"),
    [
        ([ONE, TWO, THREE], decode_error("id-2"), [GivenBack, Misfit, GivenBack]),
        ([ONE, TWO, event_of("id-1", 9)], decode_error("id-1"), [Alone, GivenBack, Alone]),
        ([ONE, TWO, THREE], both("id-1", "id-3"), [Misfit, GivenBack, Misfit]),
        ([ONE, TWO], decode_error("id-3"), None),
        ([ONE, TWO], decode_error(""), None),
        ([NAMELESS], decode_error(""), [Misfit]),
        ([NAMELESS], decode_error("id-1"), None),
        ([ONE, NAMELESS], decode_error(""), [GivenBack, Misfit]),
        ([NAMELESS, ONE, OTHER_NAMELESS], decode_error(""), [Alone, GivenBack, Alone]),
        ([NAMELESS, ONE, OTHER_NAMELESS], both("", "id-1"), [Alone, Misfit, Alone]),
        ([], decode_error(), None),
    ],
)  # fmt: skip
def test_error_when_it_comes_from_a_batch_names_its_event(
    events: list[eda.Event], error: Exception, wanted: list[type] | None
) -> None:
    assert kinds(find_misfits(events, error)) == wanted


# --- what the host decides -------------------------------------------------------------------------------------------


class Bench:
    """A host that keeps its dead letters."""

    def __init__(self, **options: Any) -> None:
        self.letters: list[dict[str, Any]] = []
        settings = SubscriptionOptions(**options)
        self.host = DispatcherHost(logging.getLogger("eda"), "orders", "billing", settings, self._store, lambda _: None)

    async def _store(self, into: str, **letter: Any) -> None:
        self.letters.append(letter)

    async def fail(self, event: eda.Event, error: Exception) -> int:
        (each,) = self.host.errors_of([event], error)
        assert each is not None
        (delay_ns,) = self.host.on_failures([event], [each])
        assert self.host.is_failure([each]) == (delay_ns != DEAD)
        payload = encode_event(event)
        return delay_ns if delay_ns != DEAD else await self.host.store_dead_letter(event, payload, each)


@pytest.mark.parametrize("max_attempts", [None, 1, 5])
@pytest.mark.parametrize("attempt", [1, 3])
async def test_misfit_when_it_fails_is_stored_at_once_with_its_bytes_and_its_error(
    logged: Logged, max_attempts: int | None, attempt: int
) -> None:
    logged.expect("can't be decoded")
    bench, event = Bench(retry=Retry(max_attempts=max_attempts)), event_of("id-1", attempt=attempt)
    assert await bench.fail(event, decode_error()) == DEAD
    (letter,) = bench.letters
    wanted = {"reason": "undecodable", "attempts": attempt, "payload": encode_event(event), "event_id": ""}
    wanted |= {"error": "cannot decode json of event id-1: `a` is not a text", "event_type": "t", "sequence": 7}
    assert {name: letter[name] for name in wanted} == wanted


async def test_misfit_when_its_id_is_in_the_headers_keeps_it_in_the_letter(logged: Logged) -> None:
    logged.expect("can't be decoded")
    bench, event = Bench(), event_of("id-1")
    (error,) = bench.host.errors_of([event], decode_error())
    assert error is not None
    bench.host.on_failures([event], [error])
    assert await bench.host.store_dead_letter(event, encode_event(event.replace(id="")), error) == DEAD
    assert [letter["event_id"] for letter in bench.letters] == ["id-1"]


async def test_misfit_when_there_is_no_dead_letter_stream_is_logged_and_passed_over(logged: Logged) -> None:
    logged.expect("can't be decoded; the event is skipped, as dead_letter is None")
    bench = Bench(dead_letter=None)
    assert await bench.fail(ONE, decode_error()) == DEAD
    assert (bench.letters, bench.host.dead_letters.n_discarded) == ([], 1)


@pytest.mark.parametrize("error", ORDINARY.values(), ids=ORDINARY)
async def test_failure_when_it_is_ordinary_is_retried(logged: Logged, error: Exception) -> None:
    logged.expect("it is handled again in")
    assert await Bench().fail(ONE, error) > 0


async def test_partial_failure_when_it_holds_decoding_errors_gives_up_only_their_own_events() -> None:
    other, own = decode_error("id-1"), decode_error("id-3")
    partial = eda.PartialFailure({TWO: other, THREE: own})
    found = Bench(batch=3).host.errors_of([ONE, TWO, THREE], partial)
    assert found[:2] == [None, other]
    assert isinstance(found[2], Misfit)
    assert found[2].__cause__ is own


async def test_misfit_when_logged_names_type_schema_and_error_without_a_traceback(logged: Logged) -> None:
    logged.expect("can't be decoded")
    bench = Bench()
    for number in range(30):
        await bench.fail(event_of(f"id-{number}"), decode_error(f"id-{number}"))
    bench.host.release()
    text = (
        "the payload of event id-0 of type 't', schema '2' (stream orders, subscription billing, sequence 7, attempt "
        "1) can't be decoded; the event is to be stored in dead-letter stream orders-dead: DecodeError: cannot decode "
        "json of event id-0: `a` is not a text"
    )
    assert logged.records[0].getMessage() == text
    assert all(record.exc_info is None for record in logged.records)
    assert len(logged.records) < 15  # at a bounded rate
    (summary,) = logged.find("the payloads of .* more events can't be decoded in")
    assert summary.eda_left_out == 31 - len(logged.records)  # type: ignore[attr-defined]


async def test_misfits_when_they_are_of_one_batch_make_one_record(logged: Logged) -> None:
    logged.expect("handler failed for event id-2")
    logged.expect("the payloads of 2 events of a batch .*sequences 1 to 3. can't be decoded; they are .*schema '2'")
    host = Bench(batch=3).host
    partial = eda.PartialFailure({ONE: decode_error("id-1"), TWO: ValueError("x"), THREE: decode_error("id-3")})
    errors = [error for error in host.errors_of([ONE, TWO, THREE], partial) if error is not None]
    delays = host.on_failures([ONE, TWO, THREE], errors)
    assert [delay == DEAD for delay in delays] == [True, False, True]
    assert host.is_failure(errors)
    assert len(logged.records) == 2


# --- in the dispatcher -----------------------------------------------------------------------------------------------


def deliver(rig: Rig, *ids: str, first: int = 1, attempt: int = 1) -> None:
    for number, event_id in enumerate(ids):
        # An envelope without id and type is no event.
        rig.deliver(first + number, event=eda.Event(id=event_id, type="t", data=eda.JSON(1)), attempt=attempt)


class Decoding:
    """A handler that can't decode the payloads of the events whose id begins with "bad"."""

    def __init__(self, *, nameless: Sequence[int] = ()) -> None:
        self.calls: list[list[int]] = []
        self.attempts: set[int] = set()
        self.nameless = nameless

    async def __call__(self, given: eda.Event | list[eda.Event]) -> None:
        events = given if isinstance(given, list) else [given]
        self.calls.append([event.sequence for event in events])
        self.attempts |= {event.attempt for event in events}
        await asyncio.sleep(0)
        for event in events:
            if event.id.startswith("bad") or event.sequence in self.nameless:
                raise eda.DecodeError("json", "no", event_id=event.id)


@pytest.mark.parametrize("attempt", [1, 4])
async def test_misfit_when_shared_is_terminated_after_its_letter_is_stored(make: Make, attempt: int) -> None:
    rig = make(Decoding(), circuit=1)
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def store(event: eda.Event, payload: bytes, error: BaseException) -> int:
        rig.dead_letters.append((event, payload, error))
        return await answer

    rig.store_dead_letter = store  # type: ignore[method-assign]
    deliver(rig, "bad-1", attempt=attempt)
    await settle()
    ((event, payload, error),) = rig.dead_letters
    assert isinstance(error, Misfit)
    assert decode_event(payload).id == event.id == "bad-1"
    assert rig.flush() == []
    answer.set_result(-1)
    await settle()
    assert rig.flush() == [(delivery(1, attempt)[1], TERM)]
    outcomes = rig.dispatcher.outcomes
    assert (outcomes.n_misfits, outcomes.n_failed, outcomes.n_dead, outcomes.n_handled) == (1, 0, 1, 0)
    assert (rig.openings, rig.retries, rig.dispatcher.n_held) == ([], [], 0)


@pytest.mark.parametrize("serial", [True, False])
async def test_misfit_when_ordered_lets_the_next_event_of_its_key_go_on_after_its_letter(
    make: Make, serial: bool
) -> None:
    handler = Decoding()
    rig = make(handler, ordered=True, serial=serial, key=None if serial else lambda event: "same")
    rig.dead_letter_delay_ns = 10
    deliver(rig, "good-1", "bad-2", "good-3")
    await settle()
    assert (handler.calls, rig.dispatcher.position) == ([[1], [2]], 1)
    rig.dispatcher.take_due()
    await settle()
    assert handler.calls == [[1], [2]]  # only the letter is tried again
    rig.dead_letter_delay_ns = -1
    rig.dispatcher.take_due()
    await settle()
    assert (handler.calls, rig.dispatcher.position) == ([[1], [2], [3]], 3)
    assert (rig.misfits, rig.dispatcher.outcomes.n_misfits) == ([2], 1)


async def test_key_function_when_it_can_not_decode_its_event_gives_the_event_up(make: Make) -> None:
    def key(event: eda.Event) -> str:
        if event.sequence == 1:
            raise eda.DecodeError("json", "no", event_id=event.id)
        return "same"

    rig = make(ordered=True, key=key)
    deliver(rig, "bad-1", "good-2")
    await settle()
    assert (rig.seqs, rig.misfits, rig.dispatcher.position) == ([2], [1], 2)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_batch_when_events_do_not_fit_handles_the_others_without_them_in_the_same_attempt(
    make: Make, ordered: bool, concurrency: int
) -> None:
    handler = Decoding()
    rig = make(handler, ordered=ordered, batch=10, linger_s=0, circuit=1, max_attempts=1, concurrency=concurrency)
    deliver(rig, "good-1", "bad-2", "good-3", "bad-4", "good-5")
    await settle()
    assert rig.misfits == [2, 4]
    assert sorted(handler.calls[-1]) == [1, 3, 5] or concurrency > 1
    assert handler.attempts == {1}
    outcomes = rig.dispatcher.outcomes
    assert (outcomes.n_handled, outcomes.n_misfits, outcomes.n_failed, rig.openings) == (3, 2, 0, [])
    if ordered:
        assert rig.dispatcher.position == 5
    else:
        answers = {delivery(seq)[1]: TERM if seq in (2, 4) else b"" for seq in range(1, 6)}
        assert dict(rig.flush()) == answers
    assert rig.dispatcher.n_held == 0


async def test_batch_when_it_runs_again_keeps_its_order(make: Make) -> None:
    handler = Decoding()
    rig = make(handler, batch=3, linger_s=0)
    deliver(rig, "good-1", "bad-2", "good-3", "good-4", "good-5")
    await settle()
    assert handler.calls == [[1, 2, 3], [1, 3, 4], [5]]


@pytest.mark.parametrize("ordered", [False, True])
async def test_batch_when_no_id_says_which_does_not_fit_handles_those_without_id_alone(
    make: Make, ordered: bool
) -> None:
    handler = Decoding(nameless=[3])
    rig = make(handler, ordered=ordered, batch=10, linger_s=0)
    deliver(rig, "good-1", "", "", "", "good-5")
    await settle()
    assert handler.calls[0] == [1, 2, 3, 4, 5]
    assert handler.calls[1:] in ([[1], [2], [3], [4], [5]], [[1, 5], [2], [3], [4]])
    assert rig.misfits == [3]
    assert (rig.dispatcher.outcomes.n_handled, rig.dispatcher.n_held) == (4, 0)


@pytest.mark.parametrize("ordered", [False, True])
async def test_batch_when_it_fails_for_a_misfit_while_closing_gives_the_others_back(make: Make, ordered: bool) -> None:
    going = asyncio.Event()

    async def handle(events: list[eda.Event]) -> None:
        await going.wait()
        raise eda.DecodeError("json", "no", event_id="bad-2")

    rig = make(handle, ordered=ordered, batch=3, linger_s=0)
    deliver(rig, "good-1", "bad-2", "good-3")
    await settle()
    rig.dispatcher.stop()
    rig.dispatcher.outcomes.give_back_waiting()
    going.set()
    await settle()
    assert rig.misfits == [2]
    assert rig.tasks[0].done()
    if ordered:
        assert (rig.dispatcher.n_held, rig.dispatcher.position) == (3, 0)
    else:
        answers = [(delivery(1)[1], b"-NAK"), (delivery(3)[1], b"-NAK"), (delivery(2)[1], TERM)]
        assert rig.flush() == answers
        assert rig.dispatcher.n_held == 0


async def test_batch_when_the_ledger_is_dropped_meanwhile_has_no_outcome(make: Make) -> None:
    going = asyncio.Event()

    async def handle(events: list[eda.Event]) -> None:
        await going.wait()
        raise eda.DecodeError("json", "no", event_id="bad-2")

    rig = make(handle, ordered=True, batch=3, linger_s=0)
    deliver(rig, "good-1", "bad-2", "good-3")
    await settle()
    rig.dispatcher.begin_at(0)
    going.set()
    await settle()
    assert (rig.misfits, rig.dispatcher.n_held, rig.dispatcher.position) == ([], 0, 0)


async def test_circuit_when_its_trial_does_not_fit_tries_the_next_event(make: Make) -> None:
    async def handle(event: eda.Event) -> None:
        if event.id == "bad-2":
            raise eda.DecodeError("json", "no", event_id=event.id)
        if event.sequence == 1:
            raise ValueError("away")

    rig = make(handle, circuit=1)
    deliver(rig, "good-1", "bad-2", "good-3")
    await settle()
    assert rig.dispatcher.gate.is_circuit_open
    rig.dispatcher.gate.try_one()
    await settle()
    assert rig.openings == [1, 0]  # the third event has closed it
    assert rig.misfits == [2]


async def test_suspect_when_it_does_not_fit_is_given_up_and_taken_off_the_record(make: Make) -> None:
    rig = make(Decoding(), max_attempts=2)
    deliver(rig, "bad-1", attempt=2)
    await settle()
    assert rig.records == [("begin", 1), ("end", 1)]
    assert rig.misfits == [1]
    assert rig.flush() == [(delivery(1, 2)[1], TERM)]


async def test_threaded_handler_when_it_can_not_decode_gives_the_event_up(make: Make) -> None:
    def handle(event: eda.Event) -> None:
        raise eda.DecodeError("json", "no", event_id=event.id)

    rig = make(eda.threaded(handle))
    deliver(rig, "bad-1")
    await until(lambda: rig.misfits == [1])


async def test_task_group_in_a_handler_when_one_task_can_not_decode_gives_the_event_up(make: Make) -> None:
    async def decode(event: eda.Event) -> None:
        event.data.decode(into=str)

    async def handle(event: eda.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(decode(event))
            group.create_task(asyncio.sleep(60))

    rig = make(handle)
    deliver(rig, "bad-1")
    await settle()
    assert rig.misfits == [1]
