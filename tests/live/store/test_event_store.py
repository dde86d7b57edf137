"""EventStore on a real server: execute, append and its expectations, load, and idempotent commands."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import pytest

import eda
from eda.jetstream.api import Api
from eda.publishing.stream_publisher import StreamPublisher


@dataclass(frozen=True)
class Balance:
    total: int = 0


def evolve(balance: Balance, event: eda.Event) -> Balance:
    return Balance(balance.total + event.data.decode())


def decide(balance: Balance, command: int) -> eda.Event | None:
    if balance.total + command < 0:
        raise ValueError("not enough")
    return added(command) if command else None


DECIDER = eda.Decider(Balance(), evolve, decide)


def added(n: int) -> eda.Event:
    return eda.Event(type="added", data=eda.JSON(n))


async def test_execute_when_the_aggregate_is_new_appends_and_folds(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream, DECIDER)
    first = await store.execute("a", 5)
    second = await store.execute("a", 7)
    assert (first.version, first.state) == (1, Balance(5))
    assert (second.version, second.state) == (2, Balance(12))
    loaded = await conn.store(stream, DECIDER).load("a")
    assert (loaded.state, loaded.version, loaded.exists) == (Balance(12), 2, True)
    assert [event.version for event in loaded.events] == [1, 2]
    assert loaded.position == second.receipt.position


async def test_execute_when_decide_raises_appends_nothing(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream, DECIDER)
    await store.execute("a", 5)
    with pytest.raises(ValueError, match="not enough"):
        await store.execute("a", -6)
    assert (await store.load("a")).version == 1


async def test_execute_when_decide_returns_nothing_appends_nothing(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream, DECIDER)
    result = await store.execute("a", 0)
    assert (result.version, result.receipts, result.receipt, result.state) == (0, [], None, Balance())
    assert not (await store.load("a")).exists


async def test_execute_when_another_process_has_appended_decides_again(conn: eda.Conn, stream: str) -> None:
    one, other = conn.store(stream, DECIDER), conn.store(stream, DECIDER)
    await one.execute("a", 5)
    await other.execute("a", -4)
    with pytest.raises(ValueError, match="not enough"):
        await one.execute("a", -3)
    assert (await one.execute("a", -1)).state == Balance(0)


async def test_execute_when_its_cache_is_out_of_date_does_not_refuse_because_of_it(conn: eda.Conn, stream: str) -> None:
    one, other = conn.store(stream, DECIDER), conn.store(stream, DECIDER)
    await one.execute("a", 5)
    await other.execute("a", 5)
    result = await one.execute("a", -8)  # with 5, it would be refused
    assert (result.version, result.state) == (3, Balance(2))
    await other.execute("a", 1)
    nothing = await one.execute("a", 0)
    assert (nothing.version, nothing.receipts, nothing.state) == (4, [], Balance(3))


async def test_execute_when_refused_asks_once_and_once_more_only_if_the_state_has_changed(
    conn: eda.Conn, stream: str
) -> None:
    asked: list[int] = []

    async def refuse(balance: Balance, command: int) -> eda.Event | None:
        asked.append(balance.total)
        if command < 0:
            raise ValueError("no")
        return added(command) if command else None

    decider = eda.Decider(Balance(), evolve, refuse)
    one, other = conn.store(stream, decider, attempts=1), conn.store(stream, DECIDER)
    await one.execute("a", 5)
    asked.clear()
    for command in (-1, 0):
        if command:
            with pytest.raises(ValueError, match="no"):
                await one.execute("a", command)
        else:
            await one.execute("a", command)
    assert asked == [5, 5]
    await other.execute("a", 1)
    with pytest.raises(ValueError, match="no"):
        await one.execute("a", -1)
    assert asked == [5, 5, 5, 6]


async def test_execute_when_the_cached_state_is_out_of_date_is_not_refused_because_of_it(
    conn: eda.Conn, stream: str
) -> None:
    """No append tells the store that its state is out of date if `decide` raises, or returns no event."""
    one, other = conn.store(stream, DECIDER), conn.store(stream, DECIDER)
    await one.execute("a", 5)
    await other.execute("a", 10)
    assert (await one.execute("a", -15)).state == Balance(0)
    await other.execute("a", 3, command_id="c")
    nothing = await one.execute("a", 0)
    assert (nothing.version, nothing.state) == (4, Balance(3))
    await other.execute("a", -3, command_id="d")
    await one.load("a")
    await other.execute("b", 3)
    assert (await one.execute("b", 3)).version == 2
    await other.execute("b", -6, command_id="e")
    again = await one.execute("b", -6, command_id="e")  # it would be refused if it were decided again
    assert (again.version, again.state) == (3, Balance(0))


async def test_execute_when_another_process_forgot_the_aggregate_does_not_decide_on_its_state(
    conn: eda.Conn, stream: str
) -> None:
    one, other = conn.store(stream, DECIDER), conn.store(stream, DECIDER)
    await one.execute("a", 5)
    await other.forget("a")
    for command in (-6, 0, 1):
        with pytest.raises(eda.AggregateForgotten):
            await one.execute("a", command)


async def test_append_when_others_append_and_it_must_only_exist_is_stored(conn: eda.Conn, stream: str) -> None:
    one, other = conn.store(stream, DECIDER), conn.store(stream, DECIDER)
    await one.append("a", [added(1)], expected="new")
    await other.append("a", [added(1)], expected=1)
    assert (await one.append("a", [added(1)], expected="exists")).version == 3


@pytest.mark.parametrize("has_decider", [True, False])
async def test_append_when_repeated_after_the_duplicate_window_is_not_stored_again(
    conn: eda.Conn, stream: str, has_decider: bool
) -> None:
    await conn.store(stream)
    await conn.streams.update(stream, dedup_window_s=0.1)
    decider = DECIDER if has_decider else None
    await conn.store(stream, decider).append("a", [added(1)], expected="any", command_id="c")
    await conn.store(stream, decider).append("a", [added(2)], expected=1)
    await asyncio.sleep(0.3)
    for expected in ("any", "exists", 2, "new", 1):
        store = conn.store(stream, decider)
        again = await store.append("a", [added(1)], expected=expected, command_id="c")
        assert (again.version, again.receipts[0].sequence) == (1, 1)
    assert (await conn.store(stream, decider).load("a")).version == 2


async def test_execute_when_many_run_on_one_aggregate_gives_each_a_version(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream, DECIDER)
    results = await asyncio.gather(*(store.execute("a", 1) for _ in range(100)))
    assert sorted(result.version for result in results) == list(range(1, 101))
    assert (await store.load("a")).state == Balance(100)


async def test_execute_when_decide_returns_an_endless_iterator_is_refused(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream, eda.Decider(Balance(), evolve, lambda _, command: map(added, itertools.count(command))))
    with pytest.raises(eda.ConfigError, match="at most 1000 events"):
        await store.execute("a", 1)
    assert not (await store.load("a")).exists


@pytest.mark.parametrize("nested", ["execute", "append", "forget", "execute by another store", "in a time-out"])
async def test_execute_when_decide_calls_the_store_for_the_same_aggregate_raises_at_once(
    conn: eda.Conn, stream: str, nested: str
) -> None:
    async def decide(balance: Balance, command: int) -> eda.Event:
        if command == 1:
            await store.execute("b", 2)  # another aggregate
            if nested == "append":
                await store.append("a", [added(2)], expected="any")
            elif nested == "forget":
                await store.forget("a")
            elif nested == "execute by another store":
                await conn.store(stream, DECIDER).execute("a", 2)
            else:
                async with asyncio.timeout(5 if nested == "in a time-out" else None):
                    await store.execute("a", 2)
        return added(command)

    store = conn.store(stream, eda.Decider(Balance(), evolve, decide))
    async with asyncio.timeout(2):
        with pytest.raises(eda.ConfigError, match=r"aggregate 'a': .*Return all events from `decide` instead"):
            await store.execute("a", 1)
    assert not (await store.load("a")).exists
    assert (await store.load("b")).version == 1
    results = await asyncio.gather(*(store.execute("a", 3) for _ in range(3)))
    assert [result.version for result in results] == [1, 2, 3]


async def test_command_when_executed_again_returns_the_stored_result(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream, DECIDER)
    first = await store.execute("a", 5, command_id="c1")
    await store.execute("a", 1)
    for again in (store, conn.store(stream, DECIDER), conn.store(stream, DECIDER, cache=0)):
        result = await again.execute("a", 5, command_id="c1")
        assert (result.version, result.receipt.id, result.receipt.sequence) == (1, first.receipt.id, 1)
        assert result.receipt.duplicate
    assert (await store.load("a")).version == 2


async def test_command_when_it_touches_two_aggregates_is_stored_in_both(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream, DECIDER)
    await store.execute("a", 5, command_id="c1")
    await store.execute("b", 5, command_id="c1")
    assert [(await store.load(name)).version for name in "ab"] == [1, 1]


@pytest.mark.parametrize("expected", ["load", "append", 1, "exists", "any"])
async def test_append_when_the_expectation_holds_stores(conn: eda.Conn, stream: str, expected: object) -> None:
    store = conn.store(stream)
    appended = await store.append("a", [added(1)], expected="new")
    given = {"load": await store.load("a"), "append": appended}.get(str(expected), expected)
    result = await store.append("a", [added(2)], expected=given)
    assert (result.version, result.receipt.sequence) == (2, 2)


@pytest.mark.parametrize(("expected", "actual"), [(0, 2), (1, 2), (3, 2), ("new", 2)])
async def test_append_when_the_version_is_another_raises_the_conflict(
    conn: eda.Conn, stream: str, expected: int | str, actual: int
) -> None:
    for writer in (conn.store(stream), conn.store(stream, DECIDER)):
        name = f"a-{id(writer)}"
        await writer.append(name, [added(1)], expected="new")
        await writer.append(name, [added(2)], expected=1)
        for store in (writer, conn.store(stream)):
            with pytest.raises(eda.VersionConflict) as raised:
                await store.append(name, [added(3)], expected=expected)
            assert (raised.value.expected, raised.value.actual) == (expected, actual)
            after = 0 if expected == "new" else expected
            assert [event.version for event in raised.value.events] == [v for v in (1, 2) if v > after]
        assert (await writer.load(name)).version == 2


async def test_append_when_it_must_exist_and_does_not_raises_the_conflict(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.VersionConflict) as raised:
        await conn.store(stream).append("a", [added(3)], expected="exists")
    assert (raised.value.expected, raised.value.actual, raised.value.events) == ("exists", 0, [])


async def test_append_when_it_has_several_events_stores_all_or_none(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream)
    result = await store.append("a", [added(n) for n in range(10)], expected="new")
    assert (result.version, [each.sequence for each in result.receipts]) == (10, list(range(1, 11)))
    with pytest.raises(eda.VersionConflict):
        await store.append("a", [added(n) for n in range(10)], expected=5)
    assert [event.data.decode() for event in await store.history("a", after=7)] == [7, 8, 9]


async def test_append_when_repeated_with_its_command_id_returns_the_stored_result(conn: eda.Conn, stream: str) -> None:
    events = [added(1), added(2)]
    await conn.store(stream).append("a", events, expected="new", command_id="c")
    for expected in ("new", 0, "any"):
        again = await conn.store(stream).append("a", events, expected=expected, command_id="c")
        assert (again.version, [each.sequence for each in again.receipts]) == (2, [1, 2])
    with pytest.raises(eda.VersionConflict):  # only a part of its ids is stored
        await conn.store(stream).append("a", [*events, added(3)], expected="new", command_id="c")


async def test_aggregates_when_listed_are_each_there_once(conn: eda.Conn, stream: str) -> None:
    store = conn.store(stream)
    names = ["a", "b.c d", "*", "ü", ">"]
    for name in [*names, "gone"]:
        await store.append(name, [added(1)], expected="new")
        await store.append(name, [eda.Event(type="other")], expected=1)
    await store.forget("gone")
    assert sorted([name async for name in store.aggregates()]) == sorted(names)


async def test_aggregate_when_forgotten_can_not_be_used_again(conn: eda.Conn, stream: str) -> None:
    store, other = conn.store(stream, DECIDER), conn.store(stream, DECIDER)
    await store.execute("a", 5)
    await other.execute("a", 5)
    await store.forget("a")
    await store.forget("a")
    for each in (store, other, conn.store(stream, DECIDER)):
        for call in (
            lambda each=each: each.load("a"),
            lambda each=each: each.history("a"),
            lambda each=each: each.execute("a", 1),
            lambda each=each: each.append("a", [added(1)], expected="new"),
            lambda each=each: each.append("a", [added(1)], expected="any"),
            lambda each=each: each.append("a", [added(1)], expected=2),
        ):
            with pytest.raises(eda.AggregateForgotten):
                await call()


async def test_snapshot_when_it_is_due_makes_the_next_load_short(conn: eda.Conn, stream: str) -> None:
    async with conn.store(stream, DECIDER, snapshot_every=10) as store:
        for _ in range(25):
            await store.execute("a", 1)
    loaded = await conn.store(stream, DECIDER, snapshot_every=10).load("a")
    assert (loaded.state, loaded.version) == (Balance(25), 25)
    assert [event.version for event in loaded.events] == list(range(21, 26))


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda store: store.load(""), "aggregate"),
        (lambda store: store.load(5), "aggregate"),
        (lambda store: store.history("a", after=-1), "after"),
        (lambda store: store.append("a", [], expected="new"), "events"),
        (lambda store: store.append("a", [added(1)] * 1001, expected="new"), "events"),
        (lambda store: store.append("a", ["text"], expected="new"), "events"),
        (lambda store: store.append("a", added(1), expected="new"), "events"),
        (lambda store: store.append("a", [added(1).replace(aggregate="b")], expected="new"), "events"),
        (lambda store: store.append("a", [eda.Event(type="eda.forgotten")], expected="new"), "events"),
        (lambda store: store.append("a", [eda.Event(data=eda.Bytes(bytes(2**21)))], expected="new"), "events"),
        (lambda store: store.append("a", [added(1)], expected=-1), "expected"),
        (lambda store: store.append("a", [added(1)], expected=True), "expected"),
        (lambda store: store.append("a", [added(1)], expected="old"), "expected"),
        (lambda store: store.append("a", [added(1)], expected=None), "expected"),
        (lambda store: store.append("a", [added(1)], expected="new", command_id=""), "command_id"),
        (lambda store: store.append("a", [added(1)], expected="new", command_id="x" * 101), "command_id"),
        (lambda store: store.append("a", [added(1).replace(id="x")], expected="new", command_id="c"), "events"),
        (lambda store: store.execute("a", 1), "decider"),
    ],
)
async def test_input_when_wrong_is_refused_before_anything_is_sent(
    conn: eda.Conn, stream: str, call: object, argument: str
) -> None:
    store = conn.store(stream)
    with pytest.raises(eda.ConfigError) as raised:
        await call(store)  # type: ignore[operator]
    assert raised.value.argument == argument
    await store
    assert (await conn.streams.info(stream)).events == 0


@eda.payload("test-event-store-paid")
@dataclass
class Paid:
    amount: int


def typed_evolve(balance: Balance, paid: Paid) -> Balance:
    return Balance(balance.total + paid.amount)


@pytest.mark.parametrize("is_warm", [True, False])
async def test_append_when_evolve_does_not_take_the_type_stores_nothing(
    conn: eda.Conn, stream: str, is_warm: bool
) -> None:
    store = conn.store(stream, eda.Decider(Balance(), typed_evolve))
    await store.append("a", [Paid(1)], expected="new")
    if is_warm:
        await store.load("a")
    else:
        store = conn.store(stream, eda.Decider(Balance(), typed_evolve))
    with pytest.raises(eda.ConfigError, match=r"events\[1\] has the type 'other', which evolve .* does not take"):
        await store.append("a", [Paid(2), eda.Event(type="other")], expected="any")
    assert (await store.load("a")).state == Balance(1)


@pytest.mark.parametrize("given", [None, 5, eda.JSON(1), "paid"])
async def test_append_when_given_something_else_names_it(conn: eda.Conn, stream: str, given: object) -> None:
    with pytest.raises(eda.ConfigError, match=r"events\[1\] is .*: an event is an eda.Event") as raised:
        await conn.store(stream).append("a", [Paid(1), given], expected="any")
    assert raised.value.argument == "events"


async def test_expected_when_it_is_of_another_stream_is_refused(conn: eda.Conn, stream: str) -> None:
    store, other = conn.store(stream), conn.store(f"{stream}-other")
    appended = await other.append("a", [Paid(1)], expected="new")
    for expected in (appended, await other.load("a"), await other.load("b")):
        with pytest.raises(eda.ConfigError, match=f"expected is of stream '{stream}-other', not of '{stream}'"):
            await store.append(expected.aggregate, [Paid(1)], expected=expected)


async def test_execute_when_there_is_no_decide_sends_nothing(conn: eda.Conn, stream: str) -> None:
    with pytest.raises(eda.ConfigError, match="the store has none"):
        await conn.store(stream).execute("a", 1)
    with pytest.raises(eda.ConfigError, match=r"has none: eda\.Decider"):
        await conn.store(stream, eda.Decider(Balance(), evolve)).execute("a", 1)
    with pytest.raises(eda.StreamNotFound):
        await conn.streams.info(stream)


@pytest.mark.parametrize(
    ("expected", "text"), [("new", "to be new, but it has version 1"), (5, "to have version 5, but it has version 1")]
)
async def test_conflict_when_shown_says_what_was_expected(
    conn: eda.Conn, stream: str, expected: int | str, text: str
) -> None:
    store = conn.store(stream)
    await store.append("a", [added(1)], expected="any")
    with pytest.raises(eda.VersionConflict, match=f"was expected {text}"):
        await store.append("a", [added(1)], expected=expected)
    with pytest.raises(eda.VersionConflict, match="was expected to exist, but it has no events"):
        await store.append("b", [added(1)], expected="exists")
    ids = [added(1).replace(id=each) for each in ("x", "y", "z")]
    await store.append("a", ids[:2], expected=1)
    for again in ("any", 3):
        with pytest.raises(eda.VersionConflict, match=r"conflicts with events that aggregate 'a' .* has already"):
            await store.append("a", ids[1:], expected=again)


async def test_append_when_the_replicas_may_store_two_batches_takes_single_events_only(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Api, "has_sound_batches", property(lambda api: False))
    store = await conn.store(stream)
    await store.append("a", [added(1), added(2)], expected="new")  # one replica
    store._core.parts.appending._replicas = lambda: 3
    with pytest.raises(eda.NotSupported, match=r"2\.12\.14"):
        await store.append("a", [added(3), added(4)], expected=2)
    assert (await store.append("a", [added(3)], expected=2)).version == 3


async def test_append_when_it_had_to_wait_for_room_has_the_rest_of_its_time(
    conn: eda.Conn, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ready(*_: object) -> float:
        return 0.25

    store = conn.store(stream)
    await store.append("a", [added(1)], expected="new")
    assert store._core is not None
    publisher = store._core.parts.appending.known[stream].publisher
    monkeypatch.setattr(StreamPublisher, "is_ready", False)
    monkeypatch.setattr(StreamPublisher, "ready", ready)
    appending = asyncio.create_task(store.append("a", [added(2)], expected="any"))
    for _ in range(10):
        await asyncio.sleep(0)
        if publisher.sender.n_pending:
            break
    next_s = publisher.sender.due()[2]
    assert next_s is not None
    assert next_s <= 0.25
    await appending
