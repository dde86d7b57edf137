import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, final

from eda._event import Event
from eda.handling._outcome import Outcomes
from eda.transport._outbound import Outbound

__all__ = ["Dispatcher", "GivenBack"]

class GivenBack(BaseException):
    """Raised by a handler of ours: nothing became of the event, and it comes again at once."""

class DispatchHost(Protocol):
    def make_future(self) -> asyncio.Future[None]: ...
    def make_future_within(self, seconds: float) -> asyncio.Future[None]:
        """A future that is done after `seconds` at the latest."""
    def cancelled_error(self) -> BaseException:
        """What a worker ends with that was cancelled from outside."""
    def refuse(self, result: object) -> BaseException | None:
        """The error of a handler that returned a generator."""
    def overdue_error(self, event: Event, error: BaseException | None) -> BaseException:
        """The error of a handler that was cancelled for running too long; `error` is how it ended."""
    def on_overrun(self, event: Event, seconds: float) -> None:
        """Tell of a plain function that ran too long."""
    def errors_of(self, events: list[Event], error: BaseException) -> list[BaseException | None]:
        """What each event of a failed handler call has failed with; None: it was handled."""
    def on_failures(self, events: Sequence[Event], errors: Sequence[BaseException]) -> list[int]:
        """Tell of the events that one call of the handler has failed; for each the nanoseconds until it comes again,
        negative: it is dead."""
    def is_failure(self, errors: Sequence[BaseException]) -> bool:
        """Whether a call of the handler that ended with these counts for the circuit."""
    def on_circuit(self, n_openings: int) -> None:
        """The circuit has opened, for so many times in a row: `try_one` is to be called. 0: it is closed."""
    def bury(self, event: Event, payload: bytes, error: BaseException) -> Awaitable[int]:
        """Store a dead letter; gives a negative number, or the nanoseconds after which to try again."""
    def try_on_record(self, event: Event) -> Awaitable[int]:
        """Put on record that the event is begun: 0. Negative: it was begun before and did not end; positive: try again
        in so many nanoseconds."""
    def end_record(self, event: Event) -> Awaitable[None]:
        """Take that from the record; raises nothing but when cancelled."""
    def on_retry(self, delay_s: float) -> None:
        """See that `take_due` is called after `delay_s`."""
    @property
    def on_progress(self) -> Callable[[], None]:
        """Called after `tell_progress` when the position may have moved."""
    @property
    def confirmed(self) -> Callable[[int], Awaitable[None]]:
        """Returns when the position is stored; never raises but when cancelled."""

class DispatchSource(Protocol):
    def on_status(self, status: int, tail: bytes, headers: bytes) -> None:
        """Take a status message that came to the inbox's subject `tail`."""
    def pull(self, n: int, n_bytes: int) -> None:
        """Ask for this much more, and `grant` it."""
    def on_stripped(self, seq: int, reply: bytes) -> None:
        """Take a delivery whose body the consumer left out; ordered: it was the reader's last."""
    def on_unwanted(self, seq: int, reply: bytes) -> None:
        """Shared, after `doubt_unwanted`: take a delivery that the filter does not want, to be acknowledged or not."""

@final
class Dispatcher(Outcomes):
    def __init__(
        self,
        host: DispatchHost,
        source: DispatchSource,
        handler: Callable[[Any], Any],
        out: Outbound,
        *,
        stream: str,
        consumer: str,
        inbox: bytes,
        limit: int,
        limit_bytes: int,
        concurrency: int = 1,
        batch: int | None = None,
        linger_s: float = 0.0,
        timeout_s: float = 30.0,
        strict: bool = False,
        circuit: int = 0,
        ordered: bool = False,
        serial: bool = False,
        types: Iterable[str] | None = None,
        aggregate: str | None = None,
        key: object = None,
        name: str = "",
        max_attempts: int = 0,
    ) -> None: ...
    def set_task(self, index: int, task: asyncio.Task[None]) -> None: ...
    def work(self, index: int) -> Coroutine[Any, Any, None]: ...
    def running_now(self) -> list[Any]: ...
    def cancel_overdue(self, index: int) -> None: ...
    def fence(self) -> None: ...
    def stop(self) -> None: ...
