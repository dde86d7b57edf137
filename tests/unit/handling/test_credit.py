"""The credit of eda.handling._dispatch: what is asked for, what the server may still send, what is held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import eda
from support.handling.dispatching import Rig, settle
from support.packs import compressed, pack_of


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Rig]]:
    """Make rigs that hold their events, whose workers are ended after the test."""
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        rig = Rig(hold=True, **options)
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        await rig.end()


def credit(rig: Rig) -> tuple[int, int]:
    return rig.dispatcher.credit.n_messages, rig.dispatcher.credit.n_bytes


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({}, 8),  # it is not known yet how long handlers take
        ({"ordered": True}, 100),  # nobody else wants them
        ({"concurrency": 20}, 20),
        ({"concurrency": 3, "batch": 10, "linger_s": 0.0}, 30),
        ({"concurrency": 50, "batch": 10, "linger_s": 0.0}, 100),
    ],
    ids=repr,
)
async def test_refill_when_nothing_is_held_asks_once(make: Callable[..., Rig], options: dict[str, Any], n: int) -> None:
    rig = make(limit=100, limit_bytes=5000, **options)
    rig.dispatcher.credit.refill()
    assert rig.pulls == [(n, 1250)]  # no pull takes all the bytes there are
    assert credit(rig) == (n, 1250)
    rig.dispatcher.credit.refill()
    assert rig.pulls == [(n, 1250)]


async def test_delivery_when_it_comes_uses_credit_by_count_and_size(make: Callable[..., Rig]) -> None:
    rig = make(limit=100, limit_bytes=5000)
    rig.dispatcher.credit.refill()
    size = rig.deliver(1, 2)
    assert credit(rig) == (6, 1250 - size)
    assert rig.dispatcher.n_held == 2


async def test_refill_when_a_quarter_is_free_asks_for_it(make: Callable[..., Rig]) -> None:
    rig = make(limit=8, limit_bytes=10**6)
    rig.dispatcher.credit.refill()
    rig.deliver(*range(1, 9))
    assert credit(rig) == (0, 0)
    await settle()
    rig.release(1)
    await settle()
    assert len(rig.pulls) == 1  # one of eight is less than a quarter
    rig.release(2)
    await settle()
    assert [n for n, _ in rig.pulls] == [8, 2]
    assert rig.dispatcher.credit.n_messages + rig.dispatcher.n_held == 8


async def test_refill_when_the_limit_is_one_asks_for_one_after_each(make: Callable[..., Rig]) -> None:
    rig = make(limit=1)
    rig.dispatcher.credit.refill()
    for seq in range(1, 5):
        rig.deliver(seq)
        await settle()
        assert len(rig.pulls) == seq
        rig.release(seq)
        await settle()
        assert len(rig.pulls) == seq + 1
    assert {n for n, _ in rig.pulls} == {1}


async def test_refill_when_the_bytes_are_used_up_waits_until_some_are_free(make: Callable[..., Rig]) -> None:
    rig = make(limit=100, limit_bytes=4000)
    big = eda.Event(data=eda.Bytes(bytes(900)))
    for seq in range(1, 5):
        rig.dispatcher.credit.refill()
        assert len(rig.pulls) == seq
        rig.deliver(seq, event=big)
        # The server ends a pull whose bytes are used up and says what is left of its count.
        rig.dispatcher.credit.revoke(seq, 7)
        assert credit(rig) == (0, 0)
        assert 0 < rig.pulls[-1][1] <= min(1000, 4000 - rig.dispatcher.ledger.n_bytes + 1000)
    await settle()
    rig.dispatcher.credit.refill()
    n_pulls = len(rig.pulls)
    assert rig.dispatcher.ledger.n_bytes + rig.dispatcher.credit.n_bytes <= 4000
    rig.dispatcher.credit.revoke_all()
    for seq in range(1, 3):
        rig.release(seq)
        await settle()
    assert len(rig.pulls) > n_pulls
    assert rig.dispatcher.ledger.n_bytes + rig.dispatcher.credit.n_bytes <= 4000


async def test_refill_when_nothing_is_held_but_there_are_no_bytes_asks_all_the_same(make: Callable[..., Rig]) -> None:
    rig = make(limit=10, limit_bytes=1)
    rig.dispatcher.credit.refill()
    rig.deliver(1)
    rig.dispatcher.credit.revoke(1, 7)
    await settle()
    assert rig.pulls == [(8, 1)]
    rig.release(1)
    await settle()
    assert [n_bytes for _, n_bytes in rig.pulls] == [1, 1]


async def test_credit_when_a_redelivery_of_a_held_event_comes_is_used(make: Callable[..., Rig]) -> None:
    rig = make(limit=10)
    rig.dispatcher.credit.refill()
    rig.deliver(1)
    rig.deliver(1, attempt=2)
    assert (rig.dispatcher.credit.n_messages, rig.dispatcher.n_held) == (6, 1)


async def test_credit_when_more_comes_than_was_asked_for_is_none_and_nothing_is_lost(make: Callable[..., Rig]) -> None:
    rig = make(limit=4)
    rig.dispatcher.credit.refill()
    rig.deliver(*range(1, 11))
    assert credit(rig) == (0, 0)
    assert rig.dispatcher.n_held == 10
    for seq in range(1, 11):
        await settle()
        rig.release(seq)
    await settle()
    assert [event.sequence for event in rig.seen] == list(range(1, 11))
    assert 1 <= rig.dispatcher.credit.n_messages <= 4


@pytest.mark.parametrize(
    "bad", [{"payload": b"\xff"}, {"event": eda.Event(type="other")}], ids=["no envelope", "filtered"]
)
async def test_refill_when_nothing_that_comes_is_kept_goes_on(make: Callable[..., Rig], bad: dict[str, Any]) -> None:
    rig = make(limit=4, types=["t"])
    rig.dispatcher.credit.refill()
    for seq in range(1, 101):
        assert rig.dispatcher.credit.n_messages > 0
        rig.deliver(seq, **bad)
        await settle()
        assert rig.dispatcher.n_held == 0


async def test_refill_when_closing_asks_for_nothing(make: Callable[..., Rig]) -> None:
    rig = make(limit=4)
    rig.dispatcher.stop()
    rig.dispatcher.credit.refill()
    rig.deliver(1)
    rig.dispatcher.outcomes.give_back_waiting()
    assert rig.pulls == []


# --- packs -----------------------------------------------------------------------------------------------------------


# By `ordered`: options with which the limit is allowed from the start.
MANY: dict[bool, dict[str, Any]] = {False: {"batch": 10**6}, True: {"ordered": True}}


def zeros(n: int, size: int = 1000) -> bytes:
    """Return a pack whose events can be compressed well."""
    return pack_of([eda.Event(type="t", data=eda.Bytes(bytes(size)))] * n)


@pytest.mark.parametrize("ordered", [False, True])
async def test_refill_when_messages_may_be_packs_has_few_under_way_in_all(
    make: Callable[..., Rig], ordered: bool
) -> None:
    rig = make(start=False, limit=10**6, limit_bytes=10**9, **MANY[ordered])
    if ordered:
        rig.dispatcher.intake.use_reader("me", 0)
    rig.dispatcher.credit.expect_packs()
    rig.dispatcher.credit.refill()
    assert rig.pulls == [(1, 250_000_000)]
    most = 0
    for seq in range(1, 2001):
        rig.deliver(seq)
        rig.dispatcher.credit.refill()
        most = max(most, rig.dispatcher.credit.n_messages)
        assert rig.dispatcher.credit.n_messages > 0
    assert most == 256
    assert min(n for n, _ in rig.pulls[1:]) >= 64, "not a pull for each message"


@pytest.mark.parametrize("ordered", [False, True])
async def test_refill_when_packs_are_compressed_asks_for_what_they_become(
    make: Callable[..., Rig], ordered: bool
) -> None:
    limit_bytes = 2_000_000
    rig = make(start=False, limit=10**6, limit_bytes=limit_bytes, **MANY[ordered])
    if ordered:
        rig.dispatcher.intake.use_reader("me", 0)
    credit, ledger = rig.dispatcher.credit, rig.dispatcher.ledger
    credit.expect_packs()
    pack = zeros(100)
    payload = compressed(pack)
    growth = len(pack) / len(payload)
    assert growth > 20
    for seq in range(1, 1000):
        if credit.n_bytes < len(payload):  # the server ends such a pull
            credit.revoke_all()
            credit.refill()
            if credit.n_bytes < len(payload):
                break
        rig.deliver(seq, payload=payload)
        assert 1 < credit.growth <= growth
        assert ledger.n_bytes + credit.n_bytes * credit.growth <= limit_bytes * 1.01
    assert ledger.n_bytes > limit_bytes / 2, "most of the room is used"


async def test_growth_when_packs_change_is_that_of_the_best_compressed_one_for_a_while(
    make: Callable[..., Rig],
) -> None:
    rig = make(start=False, limit=10**6, limit_bytes=10**9)
    credit = rig.dispatcher.credit
    assert credit.growth == 1.0
    rig.deliver(1, payload=zeros(10))
    assert credit.growth == 1.0
    rig.deliver(2, payload=compressed(zeros(10)))
    high = credit.growth
    assert high > 5
    rig.deliver(*range(3, 200))
    assert credit.growth == high, "single events say nothing about packs"
    for seq in range(200, 210):
        rig.deliver(seq, payload=zeros(10))
    assert 0.8 * high < credit.growth < high
    for seq in range(210, 900):
        rig.deliver(seq, payload=zeros(2, 10))
    assert credit.growth < 1.1
