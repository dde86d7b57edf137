import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, final, type_check_only

from eda._event import Event
from eda.handling._credit import Credit
from eda.handling._gate import Gate
from eda.handling._intake import Intake
from eda.handling._lease import Lease
from eda.handling._ledger import Ledger
from eda.handling._outcome import Outcomes
from eda.handling.verdicts import Suspect
from eda.transport._outbound import Outbound

__all__ = ["Dispatcher"]

@type_check_only
class DispatchHost(Protocol):
    def make_future(self) -> asyncio.Future[None]: ...
    def make_future_within(self, seconds: float) -> asyncio.Future[None]:
        """Return a future that is done after `seconds` at the latest."""
    def cancelled_error(self) -> BaseException:
        """Return the error with which to end a worker that was cancelled from outside."""
    def refuse(self, result: object) -> BaseException | None:
        """Return the error for a handler that returned a generator."""
    def overdue_error(self, event: Event, error: BaseException | None) -> BaseException:
        """Return the error of a handler that was cancelled for running too long; `error` is how it ended."""
    def on_overrun(self, event: Event, seconds: float) -> None:
        """Log that a plain function ran too long."""
    def errors_of(self, events: list[Event], error: BaseException) -> list[BaseException | None]:
        """Return the error of each event of a failed handler call; None: the event was handled.

        GivenBack, Alone: the event is handled again at once, because the call failed only for another event.
        """
    def on_failures(self, events: Sequence[Event], errors: Sequence[BaseException]) -> list[int]:
        """Log the events for which a handler call has failed; returns for each event the nanoseconds until its retry.

        A negative number: the event is not tried again, and becomes a dead letter.
        """
    def is_failure(self, errors: Sequence[BaseException]) -> bool:
        """Return whether a handler call that ended with these errors counts for the circuit."""
    def on_circuit(self, n_openings: int) -> None:
        """Call `gate.try_one` after a pause: the circuit has opened for the `n_openings`-th time in a row.

        0: the circuit is closed again, and nothing is to be done.
        """
    def store_dead_letter(self, event: Event, payload: bytes, error: BaseException) -> Awaitable[int]:
        """Store a dead letter; returns a negative number. If that fails: the nanoseconds until the next attempt."""
    def try_on_record(self, event: Event, suspect: Suspect) -> Awaitable[int]:
        """Record that a handler begins with the event; returns 0 when that is done.

        Negative: the record says that handlers have begun with the event before, and have not ended, so it is given up.
        Positive: the nanoseconds after which to try again. For an event of a pack, `suspect.n_begun` is set.
        """
    def end_record(self, event: Event, suspect: Suspect, is_begun: bool) -> Awaitable[None]:
        """Remove the record. With `is_begun` False, only this attempt of an event of a pack is taken off the record.

        Raises nothing, unless it is cancelled.
        """
    def end_records(self, sequence: int, is_acknowledged: bool) -> None:
        """Remove, in the background, the records of all events of a pack, which is acknowledged.

        If it is given back, the records stay on the server, and only the host forgets them.
        """
    def on_retry(self, delay_s: float) -> None:
        """Call `take_due` after `delay_s`."""
    @property
    def on_progress(self) -> Callable[[], None]:
        """Called after `lease.tell_progress` when the position may have moved."""
    @property
    def confirmed(self) -> Callable[[int, int], Awaitable[None]]:
        """Returns when the position, given as `seq` and `idx`, is stored. Raises nothing, unless it is cancelled."""

@type_check_only
class DispatchSource(Protocol):
    """The source of a dispatcher's deliveries.

    The source of an ordered subscription also has `on_gap(expected, got)`. It is called if a delivery does not have the
    expected consumer sequence, so another one is missing. Then all later deliveries of this reader are ignored. It also
    has `on_part_gone()`. It is called if the pack in whose middle reading began is not there, so the position is before
    this pack.
    """

    def on_status(self, status: int, tail: bytes, headers: bytes) -> None:
        """Take a status message that came to the inbox's subject `tail`."""
    def pull(self, n: int, n_bytes: int) -> None:
        """Ask the server for up to `n` events and `n_bytes` bytes, and call `credit.grant`."""
    def on_stripped(self, seq: int, reply: bytes) -> None:
        """Take a delivery whose body the consumer left out. Ordered: later deliveries of this reader are ignored."""
    def on_unreadable(self, error: Exception) -> None:
        """End the subscription: this process can't read a pack that another process can read."""
    def on_unwanted(self, seq: int, reply: bytes) -> None:
        """Shared, after `ask_for_unwanted`: pass over or give back a delivery that the filter excludes."""

@final
class Dispatcher:
    @property
    def ledger(self) -> Ledger: ...
    @property
    def credit(self) -> Credit: ...
    @property
    def lease(self) -> Lease: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def outcomes(self) -> Outcomes: ...
    @property
    def intake(self) -> Intake: ...
    @property
    def n_held(self) -> int: ...
    @property
    def n_waiting(self) -> int: ...
    @property
    def n_running(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def position_ns(self) -> int: ...
    @property
    def place(self) -> tuple[int, int]: ...
    @property
    def position_parts(self) -> tuple[int, int, int, int, int]: ...
    @property
    def highest(self) -> int: ...
    @property
    def highest_ns(self) -> int: ...
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
    def work(self, index: int) -> Coroutine[Any, Any, None]: ...
    def set_task(self, index: int, task: asyncio.Task[None]) -> None: ...
    def note_group(self, index: int, change: int) -> None: ...
    def running_now(self) -> list[Any]: ...
    def running_of(self, index: int) -> Event | tuple[Event, ...] | None: ...
    def is_overdue(self, index: int) -> bool:
        """Return whether `cancel_overdue` has cancelled the handler of a worker, which has not ended yet."""
    def cancel_overdue(self, index: int) -> None: ...
    def tick(self, lease_age_s: float) -> int: ...
    def take_due(self) -> float | None: ...
    def begin_at(
        self, position: int, tries: int = 0, stored_ns: int = 0, idx: int = 0, part: int = 0, part_ns: int = 0
    ) -> None: ...
    def fence(self) -> None: ...
    def finish_packs(self, timeout_s: float) -> None: ...
    def end_packs(self) -> int: ...
    def pack_held_s(self) -> float: ...
    def stop(self) -> None: ...
    def stored_times(self, events: list[Event]) -> list[int]: ...
