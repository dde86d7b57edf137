"""The hooks around a handler: order, what counts as handled, exceptions, cancellation, batches."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
from collections.abc import Iterable
from typing import Any

import pytest

import eda
from eda._pack import place_of
from eda.handlers import GivenBack
from eda.middleware.around_handler import BatchChain, HandleChain
from eda.middleware.calls import hooks_of
from support.middleware.hooks import Body, HandleHook
from support.packs import events_of_pack
from support.reference import delivered


def event(sequence: int, type: str = "t") -> eda.Event:
    """Return an event as it is received."""
    return delivered(eda.Event(id=f"i{sequence}", type=type), "s", sequence, 1)


EVENT = event(1)
BATCH = [event(sequence) for sequence in range(1, 6)]


class Handler:
    """The function inside all hooks."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.got: list[Any] = []
        self.error = error
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def handle(self, given: Any) -> None:
        self.got.append(given)
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


async def run(handler: Handler, *bodies: Body) -> None:
    await HandleChain(hooks_of([HandleHook(body) for body in bodies], "handle"), handler.handle).call(EVENT)


async def run_batch(handler: Any, *bodies: Body, batch: Iterable[eda.Event] = BATCH) -> None:
    hooks = hooks_of([HandleHook(body) for body in bodies], "handle_batch")
    await BatchChain(hooks, handler.handle if isinstance(handler, Handler) else handler).call(list(batch))


def marking(name: str) -> Body:
    async def body(event: eda.Event, call_next: Any) -> None:
        await call_next(event.replace(aggregate=event.aggregate + name))

    return body


# --- single events ---------------------------------------------------------------------------------------------------


async def test_handle_when_there_are_hooks_runs_them_from_last_to_first() -> None:
    handler = Handler()
    await run(handler, marking("a"), marking("b"), marking("c"))
    assert [event.aggregate for event in handler.got] == ["cba"]
    assert handler.got[0].sequence == 1


async def test_handle_when_a_hook_does_not_call_call_next_has_handled_the_event() -> None:
    async def skip(event: eda.Event, call_next: Any) -> None:
        pass

    handler = Handler()
    await run(handler, marking("a"), skip)
    assert handler.got == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_handle_when_a_hook_does_not_await_call_next_fails() -> None:
    async def forget(event: eda.Event, call_next: Any) -> None:
        call_next(event)

    handler = Handler()
    with pytest.raises(eda.ConfigError, match=r"HandleHook\.handle called call_next without awaiting it: the"):
        await run(handler, forget)
    assert handler.got == []
    gc.collect()


async def test_handle_when_call_next_is_misused_fails() -> None:
    kept: list[Any] = []

    async def twice(event: eda.Event, call_next: Any) -> None:
        kept.append(call_next)
        await call_next(event)
        await call_next(event)

    async def wrong(event: eda.Event, call_next: Any) -> None:
        await call_next([event])

    handler = Handler()
    with pytest.raises(eda.ConfigError, match=r"HandleHook\.handle called call_next twice"):
        await run(handler, twice)
    with pytest.raises(eda.ConfigError, match=r"HandleHook\.handle called call_next after it had ended"):
        kept[0](EVENT)
    with pytest.raises(eda.ConfigError, match=r"HandleHook\.handle must give call_next an eda.Event, not list"):
        await run(handler, wrong)
    assert handler.got == [EVENT]


async def test_handle_when_the_handler_fails_lets_the_hook_decide() -> None:
    async def swallow(event: eda.Event, call_next: Any) -> None:
        with contextlib.suppress(KeyError):
            await call_next(event)

    async def translate(event: eda.Event, call_next: Any) -> None:
        try:
            await call_next(event)
        except KeyError as error:
            raise eda.Reject("mine") from error

    handler = Handler(KeyError("x"))
    with pytest.raises(KeyError):
        await run(handler, marking("a"), marking("b"))
    await run(handler, swallow)
    with pytest.raises(eda.Reject, match="mine"):
        await run(handler, marking("a"), translate)
    assert len(handler.got) == 3


@pytest.mark.parametrize("error", [GivenBack(), SystemExit(5), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("translates", [False, True], ids=["swallowed", "translated"])
async def test_handle_when_the_event_is_given_back_no_hook_can_change_that(
    error: BaseException, translates: bool
) -> None:
    async def swallow(event: eda.Event, call_next: Any) -> None:
        try:
            await call_next(event)
        except BaseException as caught:
            if translates:
                raise KeyError("mine") from caught

    chain = HandleChain(hooks_of([HandleHook(swallow), HandleHook(swallow)], "handle"), Handler(error).handle)
    handling = chain.call(EVENT)
    with pytest.raises(type(error)) as caught:  # run by hand: a task would pass SystemExit to the event loop
        handling.send(None)
    assert caught.value is error


async def test_handle_when_the_handler_is_cancelled_a_hook_can_not_acknowledge_the_event() -> None:
    async def swallow(event: eda.Event, call_next: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await call_next(event)

    handler = Handler()
    handler.may_end.clear()
    handling = asyncio.create_task(run(handler, swallow, swallow))
    await asyncio.sleep(0.01)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling


async def test_handle_when_cancelled_after_the_handler_has_ended_lets_the_hook_decide() -> None:
    ended = asyncio.Event()

    async def swallow(event: eda.Event, call_next: Any) -> None:
        await call_next(event)
        ended.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    handling = asyncio.create_task(run(Handler(), swallow))
    await ended.wait()
    handling.cancel()
    await handling


async def test_handle_when_a_hook_cancels_the_handler_by_itself_decides_by_itself() -> None:
    async def time_out(event: eda.Event, call_next: Any) -> None:
        async with asyncio.timeout(0.01):
            await call_next(event)

    async def swallow(event: eda.Event, call_next: Any) -> None:
        with contextlib.suppress(TimeoutError):
            await time_out(event, call_next)

    handler = Handler()
    handler.may_end.clear()
    with pytest.raises(TimeoutError):
        await run(handler, time_out)
    await run(handler, swallow)


async def test_handle_when_the_handler_runs_in_another_task_is_not_over_before_it_ends() -> None:
    async def leave(event: eda.Event, call_next: Any) -> None:
        tasks.append(asyncio.create_task(call_next(event)))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    handler = Handler()
    handler.may_end.clear()
    handling = asyncio.create_task(run(handler, leave))
    await asyncio.sleep(0.01)
    assert not handling.done()
    handler.may_end.set()
    await handling
    assert tasks[0].done()

    handler.may_end.clear()
    handling = asyncio.create_task(run(handler, leave))
    await asyncio.sleep(0.01)
    handling.cancel()  # as a time-out does
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert tasks[1].cancelled()


# --- batches ---------------------------------------------------------------------------------------------------------


async def test_batch_when_hooks_change_events_leaves_the_order_to_them() -> None:
    async def reverse(events: list[eda.Event], call_next: Any) -> None:
        await call_next([each.replace(aggregate=each.aggregate + "a") for each in reversed(events)])

    async def drop(events: list[eda.Event], call_next: Any) -> None:
        del events[2]  # the list is the hook's own
        await call_next([each.replace(aggregate=each.aggregate + "b") for each in events])

    handler = Handler()
    await run_batch(handler, reverse, drop)
    assert [(each.sequence, each.aggregate) for each in handler.got[0]] == [(n, "ba") for n in (5, 4, 2, 1)]


async def test_batch_when_no_event_is_left_does_not_call_the_handler() -> None:
    async def none(events: list[eda.Event], call_next: Any) -> None:
        await call_next([])

    async def never(events: list[eda.Event], call_next: Any) -> None:
        raise AssertionError

    handler = Handler()
    await run_batch(handler, never, none)
    assert handler.got == []


def changed(events: list[eda.Event]) -> list[eda.Event]:
    return [each.replace(data=eda.JSON(each.sequence)) for each in events]


async def failures_of(fail: Any, *bodies: Body) -> dict[int, str]:
    """Return which events of BATCH have failed in the end, by sequence; all of them are the very events."""

    async def handle(events: list[eda.Event]) -> None:
        raise fail(events)

    with pytest.raises(eda.PartialFailure) as caught:
        await run_batch(handle, *bodies)
    assert all(any(each is own for own in BATCH) for each in caught.value.failures)
    return {each.sequence: str(error) for each, error in caught.value.failures.items()}


def second_and_last(events: list[eda.Event]) -> eda.PartialFailure:
    return eda.PartialFailure({events[1]: ValueError("second"), events[-1]: ValueError("last")})


async def test_batch_when_part_of_changed_events_fails_the_right_ones_have_failed() -> None:
    async def change(events: list[eda.Event], call_next: Any) -> None:
        await call_next(changed(events))

    async def reverse(events: list[eda.Event], call_next: Any) -> None:
        await call_next(changed(events[::-1]))

    async def drop_first(events: list[eda.Event], call_next: Any) -> None:
        await call_next(changed(events[1:]))

    assert await failures_of(second_and_last) == {2: "second", 5: "last"}
    assert await failures_of(second_and_last, change) == {2: "second", 5: "last"}
    assert await failures_of(second_and_last, reverse) == {4: "second", 1: "last"}
    assert await failures_of(second_and_last, change, drop_first) == {3: "second", 5: "last"}
    assert await failures_of(second_and_last, drop_first, reverse) == {3: "second", 1: "last"}


async def test_batch_when_part_fails_each_hook_sees_the_events_that_it_has_passed_on() -> None:
    seen: list[list[str]] = []

    def watching(name: str) -> Body:
        async def watch(events: list[eda.Event], call_next: Any) -> None:
            passed = [each.replace(aggregate=each.aggregate + name) for each in events]
            with pytest.raises(eda.PartialFailure) as caught:
                await call_next(passed)
            error = caught.value
            assert [error.error_of(each) is not None for each in passed] == [False, True, False, False, True]
            seen.append([each.aggregate for each in error.failures])
            raise error

        return watch

    assert await failures_of(second_and_last, watching("a"), watching("b")) == {2: "second", 5: "last"}
    assert seen == [["ba", "ba"], ["b", "b"]]


async def test_batch_when_a_hook_fails_a_part_by_itself_it_may_name_either_event() -> None:
    async def own(events: list[eda.Event], call_next: Any) -> None:
        await call_next(changed(events[1:]))
        raise eda.PartialFailure({events[0]: ValueError("own"), changed(events)[3]: ValueError("changed")})

    with pytest.raises(eda.PartialFailure) as caught:
        await run_batch(Handler(), own)
    assert {each.sequence: str(error) for each, error in caught.value.failures.items()} == {1: "own", 4: "changed"}


async def test_batch_when_a_hook_fails_a_part_without_calling_the_handler_it_may_name_changed_events() -> None:
    async def refuse(events: list[eda.Event], call_next: Any) -> None:
        raise eda.PartialFailure({changed(events)[1]: ValueError("refused")})

    assert await failures_of(second_and_last, marking_batch, refuse) == {2: "refused"}


PACK = events_of_pack([eda.Event(id=f"i{number}", type="t") for number in range(3)], "s", 1, 1)
OF_PACKS = [*PACK, *events_of_pack([eda.Event(id=f"j{number}", type="t") for number in range(3)], "s", 2, 1), event(3)]


@pytest.mark.parametrize("fails", range(7))
async def test_batch_when_an_event_of_a_pack_fails_it_alone_has_failed(fails: int) -> None:
    async def reverse(events: list[eda.Event], call_next: Any) -> None:
        await call_next([each.replace(id="x", data=eda.String(place_of(each))) for each in events[::-1]])

    async def handle(events: list[eda.Event]) -> None:
        raise eda.PartialFailure({events[6 - fails]: ValueError("x")})

    with pytest.raises(eda.PartialFailure) as caught:
        await run_batch(handle, reverse, batch=OF_PACKS)
    (failed,) = caught.value.failures
    assert failed is OF_PACKS[fails]


async def test_batch_when_events_of_a_pack_get_other_ids_decoding_errors_have_the_first_ones() -> None:
    async def rename(events: list[eda.Event], call_next: Any) -> None:
        await call_next([each.replace(id=f"{each.id}-new") for each in events])

    async def handle(events: list[eda.Event]) -> None:
        raise eda.DecodeError("json", "x", event_id="j1-new")

    with pytest.raises(eda.DecodeError) as caught:
        await run_batch(handle, rename, batch=OF_PACKS)
    assert caught.value.event_id == "j1"


async def test_batch_when_a_hook_passes_on_another_event_of_the_same_pack_is_refused() -> None:
    async def other(events: list[eda.Event], call_next: Any) -> None:
        await call_next([PACK[2]])

    with pytest.raises(eda.ConfigError, match="an event that is not of the batch"):
        await run_batch(Handler(), other, batch=PACK[:2])


async def test_batch_when_the_failure_names_foreign_events_is_left_as_it_is() -> None:
    failed = eda.PartialFailure({event(77): ValueError("x")})

    async def handle(events: list[eda.Event]) -> None:
        raise failed

    with pytest.raises(eda.PartialFailure) as caught:
        await run_batch(handle, marking_batch)
    assert [each.sequence for each in caught.value.failures] == [77]


async def marking_batch(events: list[eda.Event], call_next: Any) -> None:
    await call_next(changed(events))


WRONG: dict[str, tuple[Any, str]] = {
    "tuple": (tuple(BATCH), "HandleHook.handle_batch must give call_next a list of events, not tuple"),
    "event": (EVENT, "HandleHook.handle_batch must give call_next a list of events, not Event"),
    "no-event": ([EVENT, None], "HandleHook.handle_batch must give call_next a list of events, but [1] is NoneType"),
    "foreign": (
        [EVENT, eda.Event()],
        "HandleHook.handle_batch gave call_next an event that is not of the batch, at [1]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_batch_when_a_hook_passes_on_something_else_fails(name: str) -> None:
    given, text = WRONG[name]

    async def wrong(events: list[eda.Event], call_next: Any) -> None:
        await call_next(given)

    handler = Handler()
    with pytest.raises(eda.ConfigError, match=re.escape(text)):
        await run_batch(handler, wrong)
    assert handler.got == []


async def test_handle_when_the_hook_leaves_the_handler_running_and_it_fails_the_attempt_fails() -> None:
    """A hook that never saw the error has not swallowed it."""

    async def leave(event: eda.Event, call_next: Any) -> None:
        running.append(asyncio.create_task(call_next(event)))
        await asyncio.sleep(0)

    running: list[asyncio.Task[None]] = []
    handler = Handler(eda.Reject("no"))
    handler.may_end.clear()
    handling = asyncio.create_task(run(handler, marking("a"), leave))
    await asyncio.sleep(0.01)
    handler.may_end.set()
    with pytest.raises(eda.Reject):
        await handling
    assert running[0].exception() is handler.error


async def test_handle_when_the_handler_raises_cancelled_error_in_a_task_of_the_hook_the_attempt_fails() -> None:
    async def leave(event: eda.Event, call_next: Any) -> None:
        running.append(asyncio.create_task(call_next(event)))
        await asyncio.sleep(0.01)

    async def cancel(event: eda.Event, call_next: Any) -> None:
        task = asyncio.create_task(call_next(event))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)

    running: list[asyncio.Task[None]] = []
    with pytest.raises(asyncio.CancelledError):
        await run(Handler(asyncio.CancelledError()), leave)
    handler = Handler()
    handler.may_end.clear()
    await run(handler, cancel)  # the hook has decided by itself


@pytest.mark.parametrize("looks", [False, True])
async def test_handle_when_a_task_of_the_hook_fails_and_the_hook_returns_it_matters_whether_it_has_looked(
    looks: bool,
) -> None:
    async def leave(event: eda.Event, call_next: Any) -> None:
        running.append(asyncio.create_task(call_next(event)))
        await asyncio.sleep(0.01)
        if looks:
            running[0].exception()

    running: list[asyncio.Task[None]] = []
    with contextlib.nullcontext() if looks else pytest.raises(KeyError):
        await run(Handler(KeyError("x")), leave)
    running[0].exception()


@pytest.mark.parametrize("ends", ["fails", "fails in part", "is cancelled", "succeeds"])
async def test_batch_when_a_hook_fails_a_part_and_leaves_the_handler_the_other_events_are_not_taken_for_handled(
    ends: str,
) -> None:
    async def leave(events: list[eda.Event], call_next: Any) -> None:
        running.append(asyncio.create_task(call_next(changed(events))))
        await asyncio.sleep(0.01)
        raise eda.PartialFailure({events[0]: ValueError("hook")})

    async def handle(events: list[eda.Event]) -> None:
        if ends == "is cancelled":
            await asyncio.sleep(60)
        if ends == "fails":
            raise KeyError("all")
        if ends == "fails in part":
            raise eda.PartialFailure({events[1]: ValueError("handler")})

    running: list[asyncio.Task[None]] = []
    wanted = {"fails": KeyError, "is cancelled": asyncio.CancelledError}.get(ends, eda.PartialFailure)
    with pytest.raises(wanted) as caught:
        await run_batch(handle, leave)
    if isinstance(caught.value, eda.PartialFailure):
        named = [BATCH.index(each) for each in caught.value.failures]
        assert named == ([0, 1] if ends == "fails in part" else [0])
    if ends.startswith("fails"):
        running[0].exception()


# --- ids and equal events --------------------------------------------------------------------------------------------


def undecodable(event_id: str) -> eda.DecodeError:
    return eda.DecodeError("json", "no", event_id=event_id)


@pytest.mark.parametrize("group", [False, True])
async def test_handle_when_hooks_change_the_id_a_decoding_error_has_the_id_of_the_event(group: bool) -> None:
    seen: list[str] = []

    async def rename(event: eda.Event, call_next: Any) -> None:
        try:
            await call_next(event.replace(id=f"{event.id}x"))
        except Exception as error:
            seen.append((error.exceptions[0] if isinstance(error, ExceptionGroup) else error).event_id)  # type: ignore
            raise

    error: Exception = undecodable("i1xx")
    handler = Handler(ExceptionGroup("tasks", [error]) if group else error)
    with pytest.raises(ExceptionGroup if group else eda.DecodeError):
        await run(handler, rename, rename)
    assert seen == ["i1xx", "i1x"]
    assert error.event_id == "i1"  # type: ignore[attr-defined]


async def test_batch_when_hooks_change_the_ids_a_decoding_error_has_the_id_of_its_event() -> None:
    async def rename(events: list[eda.Event], call_next: Any) -> None:
        await call_next([event.replace(id=f"{event.id}x") for event in events[:0:-1]])

    with pytest.raises(eda.DecodeError) as caught:
        await run_batch(Handler(undecodable("i3x")), rename)
    assert caught.value.event_id == "i3"
    assert await failures_of(lambda events: eda.PartialFailure({events[0]: undecodable("i5x")}), rename) == {
        5: "cannot decode json of event i5: no"
    }


async def test_batch_when_changed_events_are_equal_all_of_them_have_failed() -> None:
    """Two deliveries of one event, which a cipher has stored with different bytes, are one key of a PartialFailure."""
    batch = [event(1), event(2).replace(id="i1", data=eda.JSON("nonce")), event(3)]
    assert batch[0] != batch[1]

    async def decrypt(events: list[eda.Event], call_next: Any) -> None:
        await call_next([event.replace(data=None) for event in events])

    async def handle(events: list[eda.Event]) -> None:
        raise eda.PartialFailure({events[0]: ValueError("first"), events[1]: ValueError("second")})

    with pytest.raises(eda.PartialFailure) as caught:
        await run_batch(handle, changing, decrypt, batch=batch)
    assert [each.sequence for each in caught.value.failures] == [1, 2]


async def changing(events: list[eda.Event], call_next: Any) -> None:
    await call_next([event.replace(aggregate="a") for event in events])


async def test_handle_when_a_hook_swallows_the_cancellation_and_leaves_the_handler_running_cancels_it() -> None:
    async def shield(event: eda.Event, call_next: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(call_next(event))

    handler = Handler()
    handler.may_end.clear()
    handling = asyncio.create_task(run(handler, shield))
    await asyncio.sleep(0.01)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(handling, 5)
