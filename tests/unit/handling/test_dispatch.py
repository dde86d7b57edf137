"""_dispatch without a server: deliveries in, handlers run, answers out, and the credit that goes with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import eda
from eda._codec import encode_event
from eda.transport._frame import Parser
from support.handling.dispatching import Rig, delivery, settle


async def test_delivery_when_it_comes_is_handled_and_acknowledged(make: Callable[..., Rig]) -> None:
    rig = make()
    event = eda.Event(id="id-1", type="t", data=eda.JSON({"a": 1}), time=5)
    rig.deliver(3, event=event, attempt=2, time_ns=77, pending=9)
    await settle()
    (got,) = rig.seen
    assert (got.id, got.type, got.data.decode(), got.time_ns) == ("id-1", "t", {"a": 1}, 5)
    assert (got.stream, got.sequence, got.attempt, got.ack_time_ns) == ("orders", 3, 2, 77)
    assert rig.flush() == [(b"$JS.ACK.orders.me.2.3.3.77.9", b"")]
    dispatcher = rig.dispatcher
    assert (
        dispatcher.outcomes.n_handled,
        dispatcher.outcomes.last_seq,
        dispatcher.intake.n_pending,
        dispatcher.n_held,
    ) == (1, 3, 9, 0)
    assert dispatcher.outcomes.last_acknowledged() == b"$JS.ACK.orders.me.2.3.3.77.9"


async def test_delivery_when_the_event_carries_an_ack_time_keeps_it(make: Callable[..., Rig]) -> None:
    source = make()
    source.deliver(1, event=eda.Event(id="x"), time_ns=123)
    await settle()
    rig = make()
    rig.deliver(1, payload=encode_event(source.seen[0]), time_ns=999)
    await settle()
    assert rig.seen[0].ack_time_ns == 123


async def test_deliveries_when_many_come_are_handled_in_order_and_answered_in_one_write(
    make: Callable[..., Rig],
) -> None:
    rig = make()
    rig.deliver(*range(1, 301))
    await settle()
    assert [event.sequence for event in rig.seen] == list(range(1, 301))
    n_writes = rig.out.n_writes
    assert len(rig.flush()) == 300
    assert rig.out.n_writes == n_writes + 1


@pytest.mark.parametrize("at_once", [1, 3, 10])
async def test_workers_when_there_are_several_run_that_many_at_once(make: Callable[..., Rig], at_once: int) -> None:
    rig = make(concurrency=at_once, hold=True)
    rig.deliver(*range(1, 21))
    await settle()
    assert len(rig.held) == rig.dispatcher.n_running == at_once
    assert rig.dispatcher.n_waiting == 20 - at_once
    assert sorted(event.sequence for event in rig.dispatcher.running_now()) == list(range(1, at_once + 1))
    rig.release(1)
    await settle()
    assert sorted(rig.held) == [*range(2, at_once + 1), at_once + 1]


# --- what goes wrong -------------------------------------------------------------------------------------------------


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("x"), Odd(), asyncio.CancelledError(), StopIteration()], ids=repr)
async def test_handler_when_it_fails_is_told_and_the_event_given_back(
    make: Callable[..., Rig], error: BaseException
) -> None:
    def fail(event: eda.Event) -> None:
        raise error

    rig = make(fail)
    rig.deliver(1, 2)
    await settle()
    assert [(event.sequence, told) for event, told in rig.failures] == [(1, error), (2, error)]
    assert rig.flush() == [(delivery(seq)[1], b'-NAK {"delay": 250}') for seq in (1, 2)]
    assert (rig.dispatcher.outcomes.n_failed, rig.dispatcher.outcomes.n_handled, rig.dispatcher.n_held) == (2, 0, 0)
    assert rig.dispatcher.outcomes.last_acknowledged() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_handler_when_it_wants_the_process_to_end_gives_the_event_back(error: type[BaseException]) -> None:
    def end(event: eda.Event) -> None:
        raise error

    rig = Rig(end, start=False)
    rig.deliver(1)
    work = rig.dispatcher.work(0)
    work.send(None)  # its first turn is the loop's
    with pytest.raises(error):
        work.send(None)
    assert rig.flush() == [(delivery(1)[1], b"-NAK")]


async def test_handler_when_overdue_is_cancelled_and_counts_as_failed(make: Callable[..., Rig]) -> None:
    rig = make(hold=True, concurrency=2)
    rig.deliver(1, 2, 3)
    await settle()
    index = next(n for n, event in enumerate(rig.dispatcher.running_now()) if event.sequence == 1)
    rig.dispatcher.cancel_overdue(index)
    await settle()
    assert [(event.sequence, str(error)) for event, error in rig.failures] == [(1, "overdue")]
    assert rig.flush() == [(delivery(1)[1], b'-NAK {"delay": 250}')]
    assert set(rig.held) == {2, 3}
    rig.release(2, 3)
    await settle()
    assert (rig.dispatcher.outcomes.n_handled, rig.dispatcher.outcomes.n_failed) == (2, 1)


async def test_worker_when_cancelled_gives_its_event_back_and_ends(make: Callable[..., Rig]) -> None:
    rig = make(hold=True)
    rig.deliver(1)
    await settle()
    rig.tasks[0].cancel()
    await settle()
    assert rig.tasks[0].cancelled()
    assert rig.flush() == [(delivery(1)[1], b"-NAK")]
    assert rig.failures == []


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\x05abc", b"{}", b"\x00\x00"])
async def test_message_when_it_is_no_envelope_is_told_and_terminated(make: Callable[..., Rig], payload: bytes) -> None:
    rig = make()
    rig.deliver(1, payload=payload)
    rig.deliver(2)
    await settle()
    assert [seq for seq, _ in rig.undecodable] == [1]
    assert isinstance(rig.undecodable[0][1], eda.DecodeError)
    assert rig.flush() == [(delivery(1)[1], b"+TERM undecodable"), (delivery(2)[1], b"")]
    assert rig.dispatcher.intake.n_undecodable == 1


@pytest.mark.parametrize(
    "reply",
    [
        *("", "elsewhere", "$JS.ACK", "$JS.ACK.other.me.1.1.1.1.1", "$JS.ACK.orders.other.1.1.1.1.1"),
        *("$JS.ACK.orders.me.1.1.1.1", "$JS.ACK.orders.me.0.1.1.1.1", "$JS.ACK.orders.me.1.0.1.1.1"),
        *("$JS.ACK.orders.me.1.1.1.1.1.1", "$JS.ACK.ORDERS.me.1.1.1.1.1", "$JS.ACK.order.me.1.1.1.1.1"),
        *("$JS.ACK.orders.me.1.x.1.1.1", "$JS.ACK.hub.acc.other.me.1.1.1.1.1.r", "$JS.ACK.orders.meme.1.1.1.1.1"),
        "x$JS.ACK.orders.me.1.1.1.1.1",
    ],
)
async def test_message_when_it_is_no_delivery_of_ours_is_not_answered(make: Callable[..., Rig], reply: str) -> None:
    rig = make()
    rig.feed(b"orders.t._", reply.encode(), encode_event(eda.Event(id="forged")))
    await settle()
    assert rig.seen == []
    assert rig.flush() == []
    assert rig.dispatcher.intake.n_foreign == 1


async def test_delivery_when_it_names_domain_and_account_is_ours(make: Callable[..., Rig]) -> None:
    rig = make()
    reply = b"$JS.ACK.hub.acchash.orders.me.1.5.1.1.0.random"
    rig.feed(b"orders.t._", reply, encode_event(eda.Event(type="t")))
    await settle()
    assert rig.seen[0].sequence == 5
    assert rig.flush() == [(reply, b"")]


async def test_status_when_it_comes_to_the_inbox_is_told_to_the_source(make: Callable[..., Rig]) -> None:
    rig = make()
    head = b"NATS/1.0 409 Consumer Deleted\r\nNats-Pending-Messages: 5\r\n\r\n"
    rig.feed(b"_INBOX.me.12", b"", b"", head)
    rig.feed(b"_INBOX.me.", b"", b"", head)  # for no pull
    rig.feed(b"_INBOX.me.13", b"", b"", b"NATS/1.0\r\nkey: value\r\n\r\n")  # no status
    assert rig.statuses == [(409, b"12", head)]
    assert rig.dispatcher.intake.n_received == 3


# --- redeliveries ----------------------------------------------------------------------------------------------------


async def test_redelivery_when_the_event_is_held_is_not_handled_beside_itself(make: Callable[..., Rig]) -> None:
    rig = make(hold=True)
    rig.deliver(1, 2)
    await settle()
    for attempt in (2, 3):
        rig.deliver(1, attempt=attempt)  # running
        rig.deliver(2, attempt=attempt)  # waiting
    await settle()
    assert rig.dispatcher.n_held == 2
    assert rig.dispatcher.intake.n_redelivered == 4
    rig.release(1)
    await settle()
    rig.release(2)
    await settle()
    assert [event.sequence for event in rig.seen] == [1, 2]
    # Both are acknowledged with the newest delivery's subject.
    assert rig.flush() == [(delivery(1, 3)[1], b""), (delivery(2, 3)[1], b"")]


async def test_redelivery_when_the_event_is_not_held_is_handled(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.deliver(1)
    await settle()
    rig.deliver(1, attempt=2)
    await settle()
    assert [(event.sequence, event.attempt) for event in rig.seen] == [(1, 1), (1, 2)]
    assert rig.flush() == [(delivery(1)[1], b""), (delivery(1, 2)[1], b"")]


async def test_delivery_when_the_server_has_forgotten_the_first_is_not_handled_twice(make: Callable[..., Rig]) -> None:
    """After a crash the server may count deliveries anew: it looks like a first one."""
    rig = make(hold=True)
    rig.deliver(1)
    await settle()
    rig.deliver(1)
    await settle()
    assert rig.dispatcher.n_held == 1


async def test_lease_when_it_is_old_is_extended_with_the_newest_subject(make: Callable[..., Rig]) -> None:
    rig = make(hold=True)
    rig.deliver(1, 2)
    await settle()
    rig.deliver(2, attempt=2)
    assert rig.dispatcher.tick(60.0) == 0
    assert rig.flush() == []
    await asyncio.sleep(0.25)
    assert rig.dispatcher.tick(0.2) == 2
    assert sorted(rig.flush()) == [(delivery(1)[1], b"+WPI"), (delivery(2, 2)[1], b"+WPI")]
    assert rig.dispatcher.tick(0.2) == 0
    rig.out.set_write(None)
    await asyncio.sleep(0.25)
    assert rig.dispatcher.tick(0.2) == 0  # nobody would hear it
    rig.out.set_write(rig.writes.append)
    assert rig.dispatcher.tick(0.2) == 2


# --- the client's filter ---------------------------------------------------------------------------------------------


async def test_filter_when_the_envelope_does_not_match_passes_over_and_acknowledges(make: Callable[..., Rig]) -> None:
    rig = make(types=["a", "b"], aggregate="x")
    for seq, (type, aggregate) in enumerate([("a", "x"), ("b", "x"), ("c", "x"), ("a", "y"), ("", ""), ("a", "")], 1):
        rig.deliver(seq, event=eda.Event(type=type, aggregate=aggregate))
    await settle()
    assert [event.sequence for event in rig.seen] == [1, 2]
    assert sorted(rig.flush()) == [(delivery(seq)[1], b"") for seq in range(1, 7)]
    assert (
        rig.dispatcher.intake.n_passed_over,
        rig.dispatcher.outcomes.n_handled,
        rig.dispatcher.outcomes.last_seq,
    ) == (4, 2, 2)


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_stop_when_events_wait_gives_them_back_in_order(make: Callable[..., Rig]) -> None:
    rig = make(hold=True)
    rig.deliver(5, 3, 9, 1)
    await settle()
    rig.dispatcher.stop()
    rig.deliver(2)
    assert rig.dispatcher.outcomes.give_back_waiting() == 4
    assert rig.flush() == [(delivery(seq)[1], b"-NAK") for seq in (1, 2, 3, 9)]
    assert rig.dispatcher.n_held == 1
    rig.release(5)
    await settle()
    assert all(task.done() for task in rig.tasks)
    assert rig.flush() == [(delivery(5)[1], b"")]
    assert rig.dispatcher.n_held == 0
    assert rig.dispatcher.outcomes.give_back_waiting() == 0


async def test_stop_when_workers_are_idle_ends_them(make: Callable[..., Rig]) -> None:
    rig = make(concurrency=5)
    await settle()
    rig.dispatcher.stop()
    await settle()
    assert all(task.done() for task in rig.tasks)


async def test_bytes_when_cut_anywhere_give_the_same(make: Callable[..., Rig]) -> None:
    whole = make()
    stream = whole.frame(*delivery(1), encode_event(eda.Event(id="a", data=eda.Bytes(b"\r\n")))) + whole.frame(
        b"_INBOX.me.1", b"", b"", b"NATS/1.0 408 Timeout\r\n\r\n"
    )
    for cut in range(len(stream) + 1):
        rig = make()
        rig.parser = Parser()
        rig.parser.register(1, rig.dispatcher.intake)
        rig.parser.feed(stream[:cut])
        rig.parser.feed(stream[cut:])
        await settle()
        assert [event.id for event in rig.seen] == ["a"]
        assert len(rig.statuses) == 1
