"""The pulls of _dispatch: what the server still owes, however it serves them, and how many it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eda
from helpers import until
from support.handling.dispatching import Rig, settle

MAX_PULLS = 64


# --- what the server owes --------------------------------------------------------------------------------------------


class Server:
    """The waiting pulls of a consumer: number > what it still brings, the next one to serve first."""

    def __init__(self, *, in_turn: bool) -> None:
        self.rig = Rig(start=False, limit=10**6)
        self.in_turn = in_turn
        self.waiting: dict[int, int] = {}
        self.n_pulls = 0
        self.seq = 0

    def ask(self, n: int) -> None:
        self.n_pulls += 1
        self.waiting[self.n_pulls] = n
        self.rig.dispatcher.credit.grant(self.n_pulls, n, 1000)

    def deliver(self) -> None:
        number, n = next(iter(self.waiting.items()))
        if self.in_turn or n == 1:
            del self.waiting[number]
        if n > 1:
            self.waiting[number] = n - 1  # nothing is said of a pull that brought everything
        self.seq += 1
        self.rig.deliver(self.seq)

    def end(self, which: int) -> None:
        number = list(self.waiting)[which % len(self.waiting)]
        self.rig.dispatcher.credit.revoke(number, self.waiting.pop(number))


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "deliver", "deliver", "end"]), st.integers(1, 20)),
    min_size=20,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), STEPS)
def test_credit_when_pulls_are_served_in_any_order_is_what_the_server_owes(
    in_turn: bool, steps: list[tuple[str, int]]
) -> None:
    server = Server(in_turn=in_turn)
    for what, n in steps:
        if what == "ask" and len(server.waiting) < 30:
            server.ask(n)
        for _ in range(n if what == "deliver" else 0):
            if server.waiting:
                server.deliver()
        if what == "end" and server.waiting:
            server.end(n)
        assert server.rig.dispatcher.credit.n_messages == sum(server.waiting.values())
    while server.waiting:
        server.end(0)
    assert server.rig.dispatcher.credit.n_messages == 0
    assert server.rig.dispatcher.credit.n_bytes == 0


async def test_revoke_when_more_is_said_to_be_left_than_was_asked_for_leaves_none(make: Callable[..., Rig]) -> None:
    rig = make(start=False)
    rig.dispatcher.credit.grant(1, 10, 1000)
    rig.dispatcher.credit.grant(2, 10, 1000)
    rig.dispatcher.credit.revoke(1, 10**6)
    assert (rig.dispatcher.credit.n_messages, rig.dispatcher.credit.n_bytes) == (0, 0)
    rig.dispatcher.credit.revoke(2, 10**6)
    rig.dispatcher.credit.revoke(3, 10**6)
    assert (rig.dispatcher.credit.n_messages, rig.dispatcher.credit.n_bytes) == (0, 0)


async def test_revoke_when_nothing_is_known_of_the_pull_changes_nothing(make: Callable[..., Rig]) -> None:
    rig = make(start=False)
    rig.dispatcher.credit.grant(1, 10, 1000)
    rig.dispatcher.credit.revoke(7, 0)
    rig.dispatcher.credit.revoke(7, -1)
    assert (rig.dispatcher.credit.n_messages, rig.dispatcher.credit.n_bytes) == (10, 1000)


async def test_revoke_when_the_server_does_not_say_what_is_left_takes_what_was_counted(
    make: Callable[..., Rig],
) -> None:
    rig = make(start=False)
    rig.dispatcher.credit.grant(1, 10, 1000)
    rig.dispatcher.credit.grant(2, 5, 500)
    rig.deliver(1)
    rig.dispatcher.credit.revoke(1, -1)
    assert (rig.dispatcher.credit.n_messages, rig.dispatcher.credit.n_bytes) == (5, 500)
    rig.dispatcher.credit.revoke(2, -1)
    assert (rig.dispatcher.credit.n_messages, rig.dispatcher.credit.n_bytes) == (0, 0)


async def test_grant_when_there_are_as_many_pulls_as_it_counts_is_refused_and_none_is_asked_for(
    make: Callable[..., Rig],
) -> None:
    rig = make(start=False, limit=10**4, ordered=True)
    for number in range(1, MAX_PULLS + 1):
        rig.dispatcher.credit.grant(number, 1, 1)
    with pytest.raises(ValueError, match="more pulls"):
        rig.dispatcher.credit.grant(MAX_PULLS + 1, 1, 1)
    rig.dispatcher.credit.refill()
    assert rig.pulls == []
    assert rig.dispatcher.credit.n_messages == MAX_PULLS
    rig.dispatcher.credit.revoke(7, 1)
    rig.dispatcher.credit.refill()
    assert len(rig.pulls) == 1
    with pytest.raises(ValueError, match="more pulls"):
        rig.dispatcher.credit.grant(MAX_PULLS + 2, 1, 1)
    rig.dispatcher.credit.revoke_all()
    with pytest.raises(ValueError, match="more pulls"):
        rig.dispatcher.credit.grant(MAX_PULLS + 3, 0, 1)  # of nothing
    assert (rig.dispatcher.credit.n_messages, rig.dispatcher.credit.n_bytes) == (0, 0)


# --- how many are asked for ------------------------------------------------------------------------------------------


async def test_allowed_when_handlers_are_quick_grows_to_the_limit_and_never_over_it(make: Callable[..., Rig]) -> None:
    rig = make(limit=500, limit_bytes=10**9)
    rig.dispatcher.credit.refill()
    assert rig.dispatcher.credit.allowed == 8
    seq = 0
    for _ in range(50):
        for _ in range(rig.dispatcher.credit.n_messages):
            seq += 1
            rig.deliver(seq)
            assert rig.dispatcher.n_held + rig.dispatcher.credit.n_messages <= rig.dispatcher.credit.allowed <= 500
        await settle()
    assert rig.dispatcher.credit.allowed == 500
    assert rig.dispatcher.outcomes.n_handled == seq


@pytest.mark.parametrize(("concurrency", "limit"), [(1, 100), (4, 300)])
async def test_allowed_when_handlers_are_slow_is_about_a_second_of_their_work(
    make: Callable[..., Rig], concurrency: int, limit: int
) -> None:
    async def handle(event: eda.Event) -> None:
        if slow:
            await asyncio.sleep(0.02)

    slow = False
    rig = make(handle, limit=limit, limit_bytes=10**9, concurrency=concurrency)
    rig.dispatcher.credit.refill()

    def fill() -> bool:
        nonlocal seq
        while rig.dispatcher.credit.n_messages:
            seq += 1
            rig.deliver(seq)
        return rig.dispatcher.credit.allowed == limit if not slow else rig.dispatcher.credit.allowed <= 50 * concurrency

    seq = 0
    await until(fill)
    slow = True
    await until(fill)
    assert rig.dispatcher.credit.allowed >= 5 * concurrency  # of a second's 50, should the machine be slow
    slow = False
    await until(fill)
    assert rig.dispatcher.credit.allowed == limit


async def test_allowed_when_the_subscription_is_ordered_is_the_limit_whatever_handlers_take(
    make: Callable[..., Rig],
) -> None:
    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0.02)

    rig = make(handle, limit=50, ordered=True)
    rig.dispatcher.intake.use_reader("me", 0)
    rig.dispatcher.credit.refill()
    rig.deliver(*range(1, 51))
    await until(lambda: rig.dispatcher.outcomes.n_handled > 20)
    assert rig.dispatcher.credit.allowed == 50
    assert rig.dispatcher.n_held + rig.dispatcher.credit.n_messages <= 50
