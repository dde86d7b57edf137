"""The hooks of middleware, called one inside the other, with a last function inside them all.

A hook gets a `Call` as its `call_next`. When the hook ends, its chain decides what that means. So no hook can lose an
outcome by mistake: an event that was not published is never reported as published, an event that was given back is
never acknowledged, and a call that still runs in another task is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from eda._event import Event
from eda.errors import ConfigError
from eda.middleware.base import HOOKS, Middleware, overrides

__all__ = ["Call", "Chain", "Hook", "check_event", "final_error", "hooks_of", "wrong"]

# The states of a call, in this order.
_READY, _CALLED, _RUNNING, _ENDED, _CLOSED = range(5)


class Hook:
    """One hook of one middleware, and its name for errors."""

    __slots__ = ("name", "run")

    def __init__(self, middleware: Middleware, hook: str) -> None:
        self.name: str = f"{type(middleware).__name__}.{hook}"
        self.run: Callable[..., Coroutine[Any, Any, object]] = getattr(middleware, hook)


def hooks_of(middleware: Sequence[Middleware], hook: str) -> tuple[Hook, ...]:
    """Return the hooks of this name that are overridden, the outermost first."""
    assert hook in HOOKS
    hooks = tuple(Hook(each, hook) for each in middleware if overrides(each, hook))
    return hooks if hook in ("publish", "flush", "opened") else hooks[::-1]


class Call:
    """A `call_next`: one call of what is inside a hook. It can be called once, while its hook runs."""

    __slots__ = (
        "_at", "_chain", "_given", "_n_cancelled", "_state", "_task", "_waiter", "error", "passed_on", "result",
        "was_left",
    )  # fmt: skip

    def __init__(self, chain: Chain, at: int, given: Any) -> None:
        self._chain = chain
        self._at = at
        self._given = given
        self._state = _READY
        self._n_cancelled = _n_cancelled()  # a task may publish while it ends because it was cancelled
        self._task: asyncio.Task[Any] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.passed_on: Any = None  # what the hook has called it with
        self.result: Any = None
        self.error: BaseException | None = None  # with which the call has ended
        self.was_left: bool = False  # whether the hook ended while the call was running: it does not know the outcome

    @property
    def has_succeeded(self) -> bool:
        """Return whether the call was made and has returned."""
        return self._state == _ENDED and self.error is None

    @property
    def was_forgotten(self) -> bool:
        """Return whether the hook called it, but never awaited the result."""
        return self._state == _CALLED

    @property
    def is_error_unseen(self) -> bool:
        """Return whether the call has failed in another task, and the hook has not looked at the exception.

        asyncio remembers this, because it logs exceptions of tasks that nobody has looked at. It does not log a
        CancelledError. A task that has ended with one counts as not looked at, unless somebody has cancelled it.
        """
        task = self._task
        if self.error is None or task is None or task is asyncio.current_task():
            return False
        if self.was_left:
            return True
        if task.cancelled():
            return not task.cancelling()
        return task.done() and getattr(task, "_log_traceback", False)

    @property
    def is_cancelled(self) -> bool:
        """Return whether somebody else has cancelled the hook's task since the hook began."""
        return _n_cancelled() > self._n_cancelled

    def _begin(self, given: Any) -> Coroutine[Any, Any, Any]:
        """Return the coroutine of the call. Raises ConfigError for a call that is not allowed, or with a wrong value.

        This is a plain function, so that a call that the hook forgets to await is noticed.
        """
        if self._state != _READY:
            raise self._refusal()
        chain = self._chain
        chain.check(self._given, given, self._name)
        self._state = _CALLED
        self.passed_on = chain.copied(given)
        return self._run(self.passed_on)

    @property
    def _name(self) -> str:
        return self._chain.hooks[self._at].name

    def _refusal(self) -> ConfigError:
        if self._state == _CLOSED:
            return wrong(f"{self._name} called call_next after it had ended")
        return wrong(f"{self._name} called call_next twice")

    async def _run(self, given: Any) -> Any:
        if self._state == _CLOSED:
            raise self._refusal()
        self._state = _RUNNING
        self._task = asyncio.current_task()
        try:
            self.result = await self._chain.call(given, self._at + 1)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._state = _ENDED
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
        return self.result

    async def ended(self, failure: BaseException | None) -> BaseException | None:
        """Return how the hook has ended, once the call is not running any more. `failure` is what the hook raised.

        The call may run in another task, which the hook did not wait for. That task is cancelled if the hook has
        failed, or was cancelled, even if it has swallowed the cancellation.
        """
        task = self._task
        if self._state != _RUNNING or isinstance(failure, GeneratorExit):
            return failure
        if task is None or task is asyncio.current_task():
            self._state = _CALLED  # the hook called `send` on the coroutine and left it, so the call can't end
            return failure
        self.was_left = True
        if failure is not None or self.is_cancelled:
            task.cancel()
        while self._state == _RUNNING:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError as error:
                failure = error
                task.cancel()
        return failure

    def close(self) -> None:
        """Refuse later calls, and forget the outcome: an exception refers to the frames that refer to this object."""
        self._state = _CLOSED
        self.error = self.result = self.passed_on = self._task = None


class Chain:
    """The hooks of one kind, the outermost first, and the function inside them all."""

    __slots__ = ("end", "hooks")
    call_type: type[Call]

    def __init__(self, hooks: Sequence[Hook], end: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
        self.hooks: Sequence[Hook] = hooks
        self.end: Callable[[Any], Coroutine[Any, Any, Any]] = end

    def call(self, given: Any, at: int = 0) -> Coroutine[Any, Any, Any]:
        """Return the coroutine that calls the hooks from number `at` onwards, and the function inside them."""
        return self._call_hook(given, at) if at < len(self.hooks) else self.end(self.copied(given))

    async def _call_hook(self, given: Any, at: int) -> Any:
        hook = self.hooks[at]
        call = self.call_type(self, at, given)
        failure: BaseException | None = None
        try:
            try:
                await hook.run(self.copied(given), call)
            except BaseException as error:
                failure = error
            failure = self.outcome(hook.name, call, await call.ended(failure), given)
            if failure is not None:
                raise failure
            return call.result
        finally:
            failure = None  # it refers to this frame
            call.close()

    def check(self, before: Any, given: Any, name: str) -> None:
        """Raise ConfigError unless `given` may be passed on by a hook that was called with `before`."""

    def copied(self, given: Any) -> Any:
        """Return `given`, or a copy of it if the hook or function that gets it could change it."""
        return given

    def outcome(self, name: str, call: Call, failure: BaseException | None, given: Any) -> BaseException | None:
        """Return the exception with which a hook has ended for its caller; None if it has succeeded.

        `failure` is the exception that the hook has raised; None if it has returned.
        """
        raise NotImplementedError


def final_error(call: Call, failure: BaseException | None) -> BaseException | None:
    """Return the error that ended the call if no hook may swallow it: it was cancelled, or given back."""
    error = call.error
    if error is None or isinstance(error, Exception):
        return None
    # A hook may cancel the call by itself, for example with asyncio.timeout. Then its task is not cancelled.
    is_by_hook = isinstance(error, asyncio.CancelledError) and (failure is not None or not call.is_cancelled)
    return None if is_by_hook else error


def _n_cancelled() -> int:
    """Return how many cancellations of the current task are not taken back by `Task.uncancel`."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def check_event(given: object, name: str) -> None:
    """Raise ConfigError unless a hook passes an event on."""
    if type(given) is not Event:
        raise wrong(f"{name} must give call_next an eda.Event, not {type(given).__name__}")


def wrong(what: str) -> ConfigError:
    """Return the error for middleware that does something wrong."""
    return ConfigError(f"middleware {what}", argument="middleware")
