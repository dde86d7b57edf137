"""The hooks around a publish: order, misuse of call_next, exceptions, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import weakref
from typing import Any

import pytest

import eda
from eda.middleware.around_publish import FlushChain, PublishChain
from eda.middleware.calls import hooks_of
from support.middleware.hooks import Body, PublishHook

RECEIPT = eda.Receipt(id="i1", stream="s", sequence=7)
EVENT = eda.Event(id="i1", stream="s")


class Server:
    """The function inside all hooks."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.got: list[eda.Event] = []
        self.error = error
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def publish(self, event: eda.Event) -> eda.Receipt:
        self.got.append(event)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return RECEIPT


async def run(server: Server, *bodies: Body) -> Any:
    hooks = hooks_of([PublishHook(body) for body in bodies], "publish")
    return await PublishChain(hooks, server.publish).call(EVENT)


def marking(name: str) -> Body:
    async def body(event: eda.Event, call_next: Any) -> object:
        return await call_next(event.replace(aggregate=event.aggregate + name))

    return body


# --- the order, and the result ---------------------------------------------------------------------------------------


async def test_publish_when_there_are_hooks_runs_them_from_first_to_last() -> None:
    server = Server()
    assert await run(server, marking("a"), marking("b"), marking("c")) is RECEIPT
    assert [event.aggregate for event in server.got] == ["abc"]


async def test_publish_when_there_are_no_hooks_calls_the_server() -> None:
    server = Server()
    assert await run(server) is RECEIPT
    assert server.got == [EVENT]


@pytest.mark.parametrize("result", [None, "other", 5])
async def test_publish_when_a_hook_returns_something_else_gives_the_receipt_all_the_same(result: object) -> None:
    seen: list[object] = []

    async def outer(event: eda.Event, call_next: Any) -> object:
        seen.append(await call_next(event))
        return result

    async def inner(event: eda.Event, call_next: Any) -> object:
        await call_next(event)
        return result

    assert await run(Server(), outer, inner) is RECEIPT
    assert seen == [RECEIPT]


# --- misuse ----------------------------------------------------------------------------------------------------------


async def fails(text: str, *bodies: Body, server: Server | None = None) -> Server:
    """Run the hooks, which fail with a ConfigError of this text."""
    server = server or Server()
    with pytest.raises(eda.ConfigError, match=re.escape(text)) as caught:
        await run(server, *bodies)
    assert caught.value.argument == "middleware"
    return server


async def test_publish_when_a_hook_does_not_call_call_next_says_that_nothing_was_published() -> None:
    async def skip(event: eda.Event, call_next: Any) -> None:
        pass

    text = "middleware PublishHook.publish returned without calling call_next: the event was not published"
    assert (await fails(text, marking("a"), skip, marking("b"))).got == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_publish_when_a_hook_does_not_await_call_next_says_that_nothing_was_published() -> None:
    async def forget(event: eda.Event, call_next: Any) -> None:
        call_next(event)

    text = "middleware PublishHook.publish returned without awaiting call_next: the event was not published"
    assert (await fails(text, forget)).got == []
    gc.collect()


async def test_publish_when_call_next_is_called_twice_publishes_once() -> None:
    async def twice(event: eda.Event, call_next: Any) -> None:
        await call_next(event)
        await call_next(event)

    server = await fails("middleware PublishHook.publish called call_next twice", twice)
    assert server.got == [EVENT]


async def test_publish_when_call_next_is_called_again_after_a_failure_is_refused() -> None:
    async def again(event: eda.Event, call_next: Any) -> None:
        try:
            await call_next(event)
        except eda.Timeout:
            await call_next(event)

    server = await fails("called call_next twice", again, server=Server(eda.Timeout("publish", 1.0)))
    assert server.got == [EVENT]


async def test_publish_when_call_next_is_called_after_the_hook_has_ended_is_refused() -> None:
    kept: list[Any] = []

    async def keep(event: eda.Event, call_next: Any) -> None:
        kept.append(call_next)
        await call_next(event)

    async def late(event: eda.Event, call_next: Any) -> None:
        kept.append(asyncio.create_task(call_next(event)))  # it has not begun when the hook ends

    server = Server()
    await run(server, keep)
    with pytest.raises(eda.ConfigError, match=r"PublishHook\.publish called call_next after it had ended"):
        kept.pop()(EVENT)
    assert server.got == [EVENT]
    server = await fails("returned without awaiting call_next: the event was not published", late)
    with pytest.raises(eda.ConfigError, match="after it had ended"):
        await kept.pop()
    assert server.got == []


@pytest.mark.parametrize("given", [None, "event", [EVENT], eda.Event], ids=str)
async def test_publish_when_a_hook_passes_on_no_event_is_refused(given: Any) -> None:
    async def wrong(event: eda.Event, call_next: Any) -> None:
        await call_next(given)

    name = type(given).__name__
    server = await fails(f"middleware PublishHook.publish must give call_next an eda.Event, not {name}", wrong)
    assert server.got == []


async def test_publish_when_a_hook_was_refused_it_may_call_correctly() -> None:
    async def corrected(event: eda.Event, call_next: Any) -> None:
        with pytest.raises(eda.ConfigError):
            call_next("event")
        await call_next(event)

    assert await run(Server(), corrected) is RECEIPT


async def test_publish_when_a_hook_changes_the_stream_is_refused() -> None:
    async def elsewhere(event: eda.Event, call_next: Any) -> None:
        await call_next(event.replace(stream="other"))

    async def anew(event: eda.Event, call_next: Any) -> None:
        await call_next(eda.Event(type="new"))

    text = "middleware PublishHook.publish can't change the stream of an event from 's' to 'other'"
    assert (await fails(text, elsewhere)).got == []
    assert await run(Server(), anew) is RECEIPT


# --- exceptions ------------------------------------------------------------------------------------------------------


async def test_publish_when_it_fails_gives_the_error_to_each_hook_and_to_the_caller() -> None:
    seen: list[BaseException] = []

    async def watch(event: eda.Event, call_next: Any) -> object:
        try:
            return await call_next(event)
        except eda.EdaError as error:
            seen.append(error)
            raise

    failed = eda.StreamNotFound("s")
    with pytest.raises(eda.StreamNotFound) as caught:
        await run(Server(failed), watch, watch)
    assert caught.value is failed
    assert seen == [failed, failed]


async def test_publish_when_a_hook_swallows_the_error_gives_it_to_the_caller_all_the_same() -> None:
    async def swallow(event: eda.Event, call_next: Any) -> None:
        with contextlib.suppress(eda.EdaError):
            await call_next(event)

    failed = eda.StreamNotFound("s")
    with pytest.raises(eda.StreamNotFound) as caught:
        await run(Server(failed), swallow)
    assert caught.value is failed


async def test_publish_when_a_hook_translates_the_error_gives_that_to_the_caller() -> None:
    async def translate(event: eda.Event, call_next: Any) -> None:
        try:
            await call_next(event)
        except eda.EdaError as error:
            raise KeyError("mine") from error

    with pytest.raises(KeyError) as caught:
        await run(Server(eda.StreamNotFound("s")), translate)
    assert isinstance(caught.value.__cause__, eda.StreamNotFound)
    assert not hasattr(caught.value, "__notes__")


async def test_publish_when_a_hook_refuses_calls_no_later_hook() -> None:
    async def refuse(event: eda.Event, call_next: Any) -> None:
        raise PermissionError("another tenant")

    async def never(event: eda.Event, call_next: Any) -> None:
        raise AssertionError

    server = Server()
    with pytest.raises(PermissionError, match="another tenant"):
        await run(server, marking("a"), refuse, never)
    assert server.got == []


async def test_publish_when_a_hook_raises_afterwards_notes_that_the_event_was_published() -> None:
    async def fail(event: eda.Event, call_next: Any) -> None:
        await call_next(event)
        raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        await run(Server(), marking("a"), fail)
    assert caught.value.__notes__ == ["event i1 was published before PublishHook.publish raised this"]


# --- other tasks, and cancellation -----------------------------------------------------------------------------------


async def test_publish_when_call_next_runs_in_another_task_waits_for_it() -> None:
    tasks = []

    async def leave(event: eda.Event, call_next: Any) -> None:
        tasks.append(asyncio.create_task(call_next(event)))
        await asyncio.sleep(0)

    server = Server()
    server.may_answer.clear()
    publishing = asyncio.create_task(run(server, leave))
    await asyncio.sleep(0.01)
    assert not publishing.done()
    server.may_answer.set()
    assert await publishing is RECEIPT
    assert await tasks[0] is RECEIPT


async def test_publish_when_a_hook_fails_while_call_next_runs_in_another_task_cancels_that() -> None:
    tasks = []

    async def fail(event: eda.Event, call_next: Any) -> None:
        tasks.append(asyncio.create_task(call_next(event)))
        await asyncio.sleep(0)
        raise KeyError("mine")

    server = Server()
    server.may_answer.clear()
    with pytest.raises(KeyError):
        await run(server, fail)
    assert tasks[0].cancelled()


@pytest.mark.parametrize("shield", [False, True], ids=["plain", "shielded"])
async def test_publish_when_the_caller_is_cancelled_below_a_hook_is_cancelled(shield: bool) -> None:
    seen: list[BaseException] = []

    async def watch(event: eda.Event, call_next: Any) -> object:
        try:
            return await (asyncio.shield(call_next(event)) if shield else call_next(event))
        except BaseException as error:
            seen.append(error)
            raise

    server = Server()
    server.may_answer.clear()
    publishing = asyncio.create_task(run(server, watch, watch))
    await asyncio.sleep(0.01)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(publishing, 5)
    assert [type(error) for error in seen] == [asyncio.CancelledError] * 2
    assert len(server.got) == 1


async def test_publish_when_the_caller_is_cancelled_in_a_hook_publishes_nothing() -> None:
    async def wait(event: eda.Event, call_next: Any) -> None:
        await asyncio.sleep(60)

    server = Server()
    publishing = asyncio.create_task(run(server, marking("a"), wait))
    await asyncio.sleep(0.01)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert server.got == []


async def test_publish_when_a_hook_swallows_the_cancellation_is_cancelled_all_the_same() -> None:
    async def swallow(event: eda.Event, call_next: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await call_next(event)

    server = Server()
    server.may_answer.clear()
    publishing = asyncio.create_task(run(server, swallow))
    await asyncio.sleep(0.01)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_publish_when_a_hook_times_out_gives_its_error_and_when_it_returns_says_that_nobody_knows() -> None:
    async def time_out(event: eda.Event, call_next: Any) -> None:
        async with asyncio.timeout(0.01):
            await call_next(event)

    async def swallow(event: eda.Event, call_next: Any) -> None:
        with contextlib.suppress(TimeoutError):
            await time_out(event, call_next)

    server = Server()
    server.may_answer.clear()
    with pytest.raises(TimeoutError):
        await run(server, time_out)
    await fails("cancelled call_next and returned: nobody knows the outcome", swallow, server=server)


# --- flush, and memory -----------------------------------------------------------------------------------------------


async def test_flush_when_there_are_hooks_runs_them_and_needs_call_next() -> None:
    class Flushes(eda.Middleware):
        def __init__(self, name: str, *, skips: bool = False) -> None:
            self.name = name
            self.skips = skips

        async def flush(self, publisher: eda.Publisher, call_next: eda.FlushNext) -> None:
            order.append((self.name, publisher))
            if not self.skips:
                await call_next()

    order: list[Any] = []
    publisher: Any = object()

    async def flush(given: Any) -> None:
        order.append(("server", given))

    await FlushChain(hooks_of([Flushes("a"), Flushes("b")], "flush"), flush).call(publisher)
    assert order == [("a", publisher), ("b", publisher), ("server", publisher)]
    with pytest.raises(eda.ConfigError, match=r"Flushes\.flush returned without .*: the publisher was not flushed"):
        await FlushChain(hooks_of([Flushes("a", skips=True)], "flush"), flush).call(publisher)


async def test_publish_when_it_has_failed_leaves_nothing_to_the_garbage_collector() -> None:
    class Mine(Exception):
        pass

    async def fail(event: eda.Event, call_next: Any) -> None:
        await call_next(event)

    gc.collect()
    gc.disable()
    try:
        error = Mine()
        gone = weakref.ref(error)
        server = Server(error)
        with contextlib.suppress(Mine):
            await run(server, fail, fail)
        server.error = None
        del error
        assert gone() is None
    finally:
        gc.enable()


async def test_publish_when_its_task_ends_after_a_cancellation_is_not_cancelled_by_it() -> None:
    """The last words of a program: its task was cancelled, and publishes in `finally`."""

    async def leave(event: eda.Event, call_next: Any) -> None:
        running.append(asyncio.create_task(call_next(event)))
        await asyncio.sleep(0)

    async def program() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            asyncio.get_running_loop().call_later(0.02, server.may_answer.set)
            receipts.append(await run(server, leave))

    running: list[asyncio.Task[Any]] = []
    receipts: list[Any] = []
    server = Server()
    server.may_answer.clear()
    task = asyncio.create_task(program())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert receipts == [RECEIPT]
    assert running[0].done()
