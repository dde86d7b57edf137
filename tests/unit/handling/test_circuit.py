"""eda.handling._dispatch, its circuit and pauses: no handler starts, what is held is kept, and one event is tried."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

import eda
from eda.handling.verdicts import Undecodable
from support.handling.dispatching import Rig, delivery, settle

Make = Callable[..., Rig]
both = pytest.mark.parametrize("ordered", [False, True])


class Database:
    """What handlers need: away, or not."""

    def __init__(self) -> None:
        self.away = True
        self.error: Exception = ConnectionError("away")
        self.asked: list[int] = []

    def handle(self, given: eda.Event | list[eda.Event]) -> None:
        events = given if isinstance(given, list) else [given]
        self.asked += [event.sequence for event in events]
        if self.away:
            raise self.error


def rig_of(make: Make, database: Database, **options: object) -> Rig:
    rig = make(database.handle, circuit=3, **options)
    rig.on_failure = lambda event, error: -1 if isinstance(error, eda.Reject | Undecodable) else 3600 * 10**9  # type: ignore[method-assign]
    return rig


@both
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_circuit_when_handlers_fail_in_a_row_opens_and_no_other_is_asked(
    make: Make, ordered: bool, concurrency: int
) -> None:
    database = Database()
    rig = rig_of(make, database, ordered=ordered, concurrency=concurrency)
    rig.deliver(*range(1, 50))
    await settle()
    assert database.asked == [1, 2, 3]
    assert rig.openings == [1]
    assert rig.dispatcher.gate.is_circuit_open
    rig.dispatcher.gate.try_one()
    await settle()
    assert database.asked == [1, 2, 3, 4]
    assert rig.openings == [1, 2]
    rig.dispatcher.gate.try_one()
    rig.dispatcher.gate.try_one()
    await settle()
    assert rig.openings == [1, 2, 3]
    database.away = False
    rig.dispatcher.gate.try_one()
    await settle()
    assert database.asked == list(range(1, 50))
    assert rig.openings == [1, 2, 3, 0]
    assert not rig.dispatcher.gate.is_circuit_open


@both
async def test_circuit_when_one_event_fails_again_and_again_stays_closed(make: Make, ordered: bool) -> None:
    database = Database()
    rig = rig_of(make, database, ordered=ordered, serial=ordered)
    rig.on_failure = lambda event, error: 0  # type: ignore[method-assign]
    for attempt in range(1, 10):
        if ordered and attempt > 1:
            rig.dispatcher.take_due()
        else:
            rig.deliver(1, attempt=attempt)
        await settle()
    assert len(database.asked) == 9
    assert rig.openings == []


async def test_circuit_when_there_is_none_stays_closed(make: Make) -> None:
    database = Database()
    rig = make(database.handle)
    rig.deliver(*range(1, 50))
    await settle()
    assert len(database.asked) == 49
    assert rig.openings == []


@both
async def test_circuit_when_a_success_is_between_the_failures_stays_closed(make: Make, ordered: bool) -> None:
    database = Database()
    rig = rig_of(make, database, ordered=ordered)
    for seq in range(1, 40):
        database.away = seq % 3 != 0
        rig.deliver(seq)
        await settle()
    assert len(database.asked) == 39
    assert rig.openings == []


@both
async def test_circuit_when_events_are_rejected_or_are_none_stays_closed_and_half_open(
    make: Make, ordered: bool
) -> None:
    database = Database()
    database.error = eda.Reject("no")
    rig = rig_of(make, database, ordered=ordered)
    rig.deliver(1, 2, 3, 4, 5)
    rig.deliver(6, 7, 8, 9, payload=b"\xff")
    await settle()
    assert rig.openings == []
    assert rig.dispatcher.outcomes.n_dead == 9
    database.error = ConnectionError("away")
    rig.deliver(10, 11, 12)
    rig.deliver(13, payload=b"\xff")
    rig.deliver(14, 15, 16)
    await settle()
    assert rig.openings == [1]
    database.error = eda.Reject("no")
    rig.dispatcher.gate.try_one()
    await settle()
    # None of these says whether the database is there: one after the other is tried.
    assert rig.dispatcher.gate.is_circuit_open
    assert rig.dispatcher.outcomes.n_dead == 13
    database.away = False
    rig.deliver(17, 18)
    await settle()
    assert rig.openings == [1, 0]
    assert database.asked[-2:] == [17, 18]


@both
async def test_circuit_when_half_open_has_one_handler_though_others_still_run(make: Make, ordered: bool) -> None:
    rig = make(hold=True, circuit=2, concurrency=5, ordered=ordered)
    rig.on_failure = lambda event, error: 3600 * 10**9  # type: ignore[method-assign]
    rig.deliver(*range(1, 9))
    await settle()
    assert sorted(rig.held) == [1, 2, 3, 4, 5]
    for seq in (1, 2):
        rig.held[seq].set_exception(ConnectionError("away"))
        await settle()
    assert rig.openings == [1]
    assert sorted(rig.held) in ([3, 4, 5], [3, 4, 5, 6])  # the first failure let another begin
    n_running = len(rig.held)
    rig.dispatcher.gate.try_one()
    await settle()
    assert len(rig.held) == n_running + 1
    rig.held[3].set_exception(ConnectionError("away"))  # from before: says nothing of the one that is tried
    await settle()
    assert rig.openings == [1]
    assert len(rig.held) == n_running
    rig.release(max(rig.held))
    await settle()
    assert rig.openings == [1, 0]
    assert rig.dispatcher.n_running == 4  # all that is left


@both
async def test_circuit_when_batches_fail_counts_each_call_once_and_then_tries_one_event(
    make: Make, ordered: bool
) -> None:
    database = Database()
    rig = rig_of(make, database, ordered=ordered, batch=10)
    for n in range(5):
        rig.deliver(*range(10 * n + 1, 10 * n + 11))
        await settle()
    assert database.asked == list(range(1, 31))
    assert rig.openings == [1]
    database.away = False
    rig.dispatcher.gate.try_one()
    await settle()
    assert database.asked == list(range(1, 51))
    assert rig.openings == [1, 0]


async def test_circuit_when_a_batch_fails_in_part_stays_closed(make: Make) -> None:
    def handle(events: list[eda.Event]) -> None:
        raise eda.PartialFailure({events[0]: ValueError("x")})

    rig = make(handle, circuit=1, batch=2)
    for n in range(5):
        rig.deliver(2 * n + 1, event=eda.Event(id=f"a{n}"))
        rig.deliver(2 * n + 2, event=eda.Event(id=f"b{n}"))
        await settle()
    assert rig.dispatcher.outcomes.n_handled > 0
    assert rig.openings == []


async def test_circuit_when_half_open_and_a_key_that_failed_is_had_now_goes_on(make: Make) -> None:
    """The event whose key could not be had waits in its lane then: it is not what is tried."""
    database = Database()
    keys_work = False

    def key_of(event: eda.Event) -> str:
        if not keys_work and event.sequence == 4:
            raise ValueError("no key")
        return "one"

    rig = make(database.handle, circuit=1, ordered=True, key=key_of)
    rig.on_failure = lambda event, error: 0 if event.sequence == 4 else 10**7  # type: ignore[method-assign]
    rig.deliver(4, 5)
    await settle()
    assert rig.openings == [1]
    keys_work = True
    database.away = False
    for _ in range(50):
        rig.dispatcher.gate.try_one()
        rig.dispatcher.take_due()
        await asyncio.sleep(0.005)
    assert sorted(database.asked) == [4, 5]
    assert not rig.dispatcher.gate.is_circuit_open


async def test_circuit_when_half_open_and_only_dead_letters_are_held_asks_for_an_event(make: Make) -> None:
    database = Database()
    rig = make(database.handle, circuit=1)
    rig.on_failure = lambda event, error: -1  # type: ignore[method-assign]
    rig.dead_letter_delay_ns = 3600 * 10**9
    rig.deliver(1)
    await settle()
    assert (rig.openings, rig.dispatcher.n_held) == ([1], 1)
    rig.dispatcher.credit.revoke_all()
    rig.pulls.clear()
    rig.dispatcher.gate.try_one()
    assert [n for n, _ in rig.pulls] == [1]
    database.away = False
    rig.deliver(2)
    await settle()
    assert rig.openings == [1, 0]


# --- credit and what is held -----------------------------------------------------------------------------------------


async def test_circuit_when_open_asks_for_nothing_more_and_gives_back_what_is_held_when_no_pull_is_left(
    make: Make,
) -> None:
    database = Database()
    rig = rig_of(make, database)
    rig.dispatcher.credit.refill()
    ((n, _),) = rig.pulls
    rig.deliver(*range(1, n))
    await settle()
    assert rig.openings == [1]
    n_pulls = len(rig.pulls)
    rig.deliver(n)
    await settle()
    assert len(rig.pulls) == n_pulls
    rig.flush()
    began = rig.dispatcher.intake.clock_ns
    rig.dispatcher.tick(3600.0)
    assert rig.flush() == []  # a pull is left: what is given back would come here again
    rig.dispatcher.credit.revoke_all()
    rig.dispatcher.tick(3600.0)
    assert rig.flush() == []  # it may be over soon
    while rig.dispatcher.intake.clock_ns < began + 5.1e9:
        await asyncio.sleep(0.2)
        rig.dispatcher.tick(3600.0)
    assert rig.flush() == [(delivery(seq)[1], b"-NAK") for seq in range(4, n + 1)]
    assert (rig.dispatcher.n_held, len(rig.pulls)) == (0, n_pulls)
    rig.dispatcher.gate.try_one()
    assert [n for n, _ in rig.pulls[n_pulls:]] == [1]
    rig.deliver(100)
    await settle()
    assert rig.openings == [1, 2]
    assert len(rig.pulls) == n_pulls + 1
    rig.dispatcher.gate.try_one()
    assert [n for n, _ in rig.pulls[n_pulls:]] == [1, 1]
    database.away = False
    rig.deliver(101)
    await settle()
    assert rig.openings == [1, 2, 0]
    assert rig.pulls[-1][0] > 1


@both
async def test_leases_when_the_circuit_is_open_or_paused_are_extended(make: Make, ordered: bool) -> None:
    database = Database()
    rig = rig_of(make, database, ordered=ordered)
    rig.deliver(1, 2, 3, 4, 5)
    await settle()
    rig.dispatcher.gate.pause()
    rig.flush()
    assert rig.dispatcher.tick(0.0) == (0 if ordered else 2)
    assert {payload for _, payload in rig.flush()} == (set() if ordered else {b"+WPI"})


async def test_circuit_when_the_position_is_lost_is_closed(make: Make) -> None:
    database = Database()
    rig = rig_of(make, database, ordered=True)
    rig.deliver(1, 2, 3, 4)
    await settle()
    assert rig.openings == [1]
    rig.dispatcher.begin_at(0)
    assert rig.openings == [1, 0]
    database.away = False
    rig.read_anew()
    rig.deliver(1, 2, 3, 4)
    await settle()
    assert database.asked == [1, 2, 3, 1, 2, 3, 4]
    rig.dispatcher.gate.try_one()  # the timer of before
    assert not rig.dispatcher.gate.is_circuit_open


# --- pausing ---------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("batch", [None, 3])
async def test_pause_when_called_starts_no_handler_until_resumed(make: Make, ordered: bool, batch: int | None) -> None:
    database = Database()
    database.away = False
    rig = make(database.handle, ordered=ordered, batch=batch)
    rig.dispatcher.gate.pause()
    rig.dispatcher.gate.pause()
    rig.dispatcher.credit.refill()
    rig.deliver(1, 2, 3)
    await settle()
    assert (database.asked, rig.pulls) == ([], [])
    assert rig.dispatcher.gate.is_paused
    assert rig.dispatcher.n_held == 3
    rig.dispatcher.gate.resume()
    rig.dispatcher.gate.resume()
    assert not rig.dispatcher.gate.is_paused
    await settle()
    assert database.asked == [1, 2, 3]
    assert rig.pulls


@both
async def test_pause_when_handlers_run_lets_them_end(make: Make, ordered: bool) -> None:
    rig = make(hold=True, ordered=ordered)
    rig.deliver(1, 2)
    await settle()
    rig.dispatcher.gate.pause()
    rig.release(1)
    await settle()
    assert (rig.dispatcher.outcomes.n_handled, rig.seqs) == (1, [1])
    rig.dispatcher.gate.resume()
    await settle()
    assert rig.seqs == [1, 2]


@both
async def test_pause_when_a_handler_calls_it_is_the_last(make: Make, ordered: bool) -> None:
    def handle(event: eda.Event) -> None:
        rig.seen.append(event)
        rig.dispatcher.gate.pause()

    rig = make(handle, ordered=ordered)
    rig.deliver(1, 2, 3)
    await settle()
    assert rig.seqs == [1]


async def test_pause_when_a_batch_lingers_starts_it_after_resume(make: Make) -> None:
    database = Database()
    database.away = False
    rig = make(database.handle, batch=5, linger_s=0.3)
    rig.deliver(1, 2)
    await settle()
    rig.dispatcher.gate.pause()
    await asyncio.sleep(0.4)
    assert database.asked == []
    rig.dispatcher.gate.resume()
    for _ in range(100):
        if database.asked:
            break
        await asyncio.sleep(0.01)
    assert database.asked == [1, 2]


@both
async def test_pause_when_the_circuit_is_open_ends_neither_by_the_other(make: Make, ordered: bool) -> None:
    database = Database()
    rig = rig_of(make, database, ordered=ordered)
    rig.deliver(*range(1, 10))
    await settle()
    rig.dispatcher.gate.pause()
    rig.dispatcher.gate.try_one()
    await settle()
    assert database.asked == [1, 2, 3]
    rig.dispatcher.gate.resume()
    await settle()
    assert database.asked == [1, 2, 3, 4]  # the one that is tried
    rig.dispatcher.gate.pause()
    database.away = False
    rig.dispatcher.gate.resume()
    await settle()
    assert database.asked == [1, 2, 3, 4]
    rig.dispatcher.gate.try_one()
    await settle()
    assert database.asked == list(range(1, 10))


async def test_pause_when_a_suspect_is_put_on_record_keeps_it_and_takes_it_off(make: Make) -> None:
    rig = make(max_attempts=2)
    rig.deliver(1, attempt=2)
    recording = asyncio.get_running_loop().create_future()

    async def record(event: eda.Event, suspect: object) -> int:
        rig.records.append(("begin", event.sequence))
        await recording
        return 0

    rig.try_on_record = record  # type: ignore[method-assign]
    await settle()
    rig.dispatcher.gate.pause()
    recording.set_result(None)
    await settle()
    assert rig.seqs == []
    assert rig.records == [("begin", 1), ("end", 1)]
    assert rig.flush() == []
    assert rig.dispatcher.n_held == 1
    rig.dispatcher.gate.resume()
    await settle()
    assert rig.seqs == [1]


@both
async def test_stop_when_paused_ends_the_workers_and_gives_back(make: Make, ordered: bool) -> None:
    rig = make(ordered=ordered)
    rig.dispatcher.gate.pause()
    rig.deliver(1, 2)
    rig.dispatcher.stop()
    await settle()
    assert rig.tasks[0].done()
    assert rig.dispatcher.outcomes.give_back_waiting() == (0 if ordered else 2)
    assert rig.seqs == []


# --- anything, in any order ------------------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, object]] = {
    "shared": {},
    "shared_concurrent": {"concurrency": 3},
    "shared_batch": {"batch": 3, "concurrency": 2, "linger_s": 0.001},
    "ordered": {"ordered": True, "concurrency": 3},
    "serial": {"ordered": True, "serial": True},
    "strict": {"ordered": True, "serial": True, "strict": True},
    "key": {"ordered": True, "concurrency": 3, "key": "aggregate"},
    "ordered_batch": {"ordered": True, "batch": 3, "concurrency": 2},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("seed", range(12))
async def test_events_when_failures_pauses_and_trials_come_in_any_order_are_all_handled_in_the_end(
    make: Make, options: dict[str, object], seed: int
) -> None:
    chance = random.Random(seed)
    outcomes = [None, ConnectionError("away"), eda.Reject("no"), asyncio.CancelledError()]
    weights = [1, 4, 1, 0.2]
    handled: set[int] = set()
    n_started = 0
    n_started_paused = 0

    async def handle(given: eda.Event | list[eda.Event]) -> None:
        nonlocal n_started, n_started_paused
        n_started += 1
        n_started_paused += rig.dispatcher.gate.is_paused
        for _ in range(chance.choice([0, 0, 1, 5])):
            await asyncio.sleep(0)
        outcome = chance.choices(outcomes, weights)[0]
        if outcome is not None:
            raise outcome
        handled.update(event.sequence for event in (given if isinstance(given, list) else [given]))

    rig = make(handle, circuit=3, max_attempts=0, **options)
    again_ns = -1 if options.get("ordered") is None else 10
    dead: set[int] = set()

    def on_failure(event: eda.Event, error: BaseException) -> int:
        if isinstance(error, eda.Reject | Undecodable):
            return -1
        if again_ns < 0:
            lost.append(event.sequence)  # the server's to deliver again
            return 10
        return again_ns

    async def store(event: eda.Event, payload: bytes, error: BaseException) -> int:
        await asyncio.sleep(0)
        if chance.random() < 0.3:
            return 10
        dead.add(event.sequence)
        return -1

    lost: list[int] = []
    rig.on_failure = on_failure  # type: ignore[method-assign]
    rig.store_dead_letter = store  # type: ignore[method-assign]
    seq = 0
    for _ in range(150):
        what = chance.randrange(8)
        if what <= 2:
            seq += 1
            payload = b"\xff" if chance.random() < 0.1 else None
            rig.deliver(seq, event=eda.Event(type="t", aggregate=chance.choice("ab")), payload=payload)
        elif what == 3 and lost:
            rig.deliver(lost.pop(), attempt=2)
        elif what == 4:
            rig.dispatcher.gate.try_one()
        elif what == 5:
            rig.dispatcher.take_due()
        elif what == 6:
            chance.choice([rig.dispatcher.gate.pause, rig.dispatcher.gate.resume])()
        for _ in range(chance.choice([0, 1, 10])):
            await asyncio.sleep(0)
    weights[:] = [1, 0, 0, 0]
    rig.dispatcher.gate.resume()
    for _ in range(400):
        while lost:
            rig.deliver(lost.pop(), attempt=2)
        rig.dispatcher.gate.try_one()
        rig.dispatcher.take_due()
        await asyncio.sleep(0.001 if options.get("linger_s") else 0)
        if len(handled | dead) == seq:
            break
    assert handled | dead == set(range(1, seq + 1))
    await settle()
    assert n_started_paused == 0
    assert rig.dispatcher.n_held == 0
    if handled and not dead:
        assert not rig.dispatcher.gate.is_circuit_open
