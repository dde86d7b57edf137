"""One stream of a projection: claims its rows, reads and applies while it owns them, and stands by otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from eda.deadline import Deadline
from eda.errors import Closed, ConfigError, ConsumerDeleted, EdaError
from eda.handling.dead_lettering import DeadLettering, dead_letter_stream
from eda.handling.failure_log import FailureLog
from eda.jetstream.grace_period import GracePeriod
from eda.jetstream.subjects import filter_subjects
from eda.log import Seldom, with_fields
from eda.projection_errors import PositionInvalid, TransactionEnded
from eda.projections.lane_host import Attempt, Counts, LaneHost
from eda.projections.options import ProjectionOptions
from eda.projections.outage_log import OutageLog
from eda.projections.ownership import Ownership
from eda.projections.passing_over import PassingOver
from eda.projections.reading import PartGone, Reading, Rewound
from eda.projections.sink import ClaimLost, PositionRow, Sink, UpTo, lowest_up_to
from eda.projections.stream_check import StreamCheck
from eda.projections.waiting import Waiters
from eda.subscribing.services import Services
from eda.subscribing.subscription import Subscription

__all__ = ["Around", "StreamRunner"]

AGAIN_FIRST_S = 0.1
AGAIN_MAX_S = 5.0
PASS_OVER_S = 1.0
FIRST_PASS_S = 0.005  # the first pause between two looks while somebody waits for an event; each is twice as long
LANES_PASS_S = 0.02  # after a commit, until the rows of idle lanes are moved
BUSY_LANES_PASS_S = 0.1  # while other lanes are busy: each such move is a transaction
MAX_SEQUENCE = 2**63 - 1
NOT_CHECKED_S = 1.0  # after a check that failed
CHECK_S = 30.0  # between two checks that the stream is still the one that was applied

AGAIN = "%s can't read stream %s, and tries again in %g s: %s"
NOT_CHECKED = "%s: checking stream %s failed, and is done again in a second: %s"
PART_GONE = (
    "%s: pack %d of stream %s did not come, and only its events up to index %d are applied, so it is checked whether "
    "the stream still has it"
)
REWOUND = "%s: stream %s has lost its end, so it is checked whether what was applied is still there"

# Puts the hooks of middleware around an attempt; the hooks see the subscription.
Around = Callable[[Subscription, Attempt], Attempt]


class StreamRunner:
    """One stream of a projection.

    `around`: the connection's middleware; None: there is none. `on_user_code()` is called in each task that runs
    functions of the user. `on_end(error)` is called when the stream can't be applied any more.
    """

    def __init__(
        self,
        services: Services,
        stream: str,
        options: ProjectionOptions,
        sink: Sink,
        apply: Callable[[Any, Any], object],
        waiters: Waiters,
        outages: OutageLog,
        around: Around | None,
        on_user_code: Callable[[], None],
        on_end: Callable[[Exception], None],
    ) -> None:
        self.stream = stream
        self.counts: Counts = Counts()
        self._not_asked_for: UpTo | None = None  # the rest of this pack is not for this projection
        self.reading: Reading | None = None  # None: another member owns the rows, or it is not known yet
        self._left: Reading | None = None  # it ends, and is not closed yet
        self._services = services
        self._logger = with_fields(services.logger, eda_stream=stream, eda_projection=options.subscription_name)
        self._retries = Seldom()
        self._options = options
        self._sink = sink
        self._apply = apply
        self._waiters = waiters
        self._outages = outages
        self._around = around
        self._on_user_code = on_user_code
        self._on_end = on_end
        self._ownership = Ownership(
            sink,
            options.name,
            options.version,
            stream,
            options.lanes,
            services.logger,
            on_lost=lambda: self._fail(ClaimLost()),
            on_failed=lambda error: self._fail(error),
            on_rows=self._on_rows,
            is_wanted=lambda: waiters.wanted(stream) > 0,
            is_able=lambda: services.wire.is_up,
        )
        self._check = StreamCheck(services.api, stream, options.name, options.version)
        wanted = filter_subjects(stream, options.types, options.aggregate)
        self._passing_over = PassingOver(services.api, stream, wanted, services.logger, options.subscription_name)
        self._dead_letter_stream = into = dead_letter_stream(stream, options.dead_letter)
        self._failures = FailureLog(services.logger, stream, options.subscription_name, into)
        self._dead_letters = DeadLettering(
            stream, options.subscription_name, into, services.dead_letters.store, self._failures, self._fail
        )
        self._wanted = asyncio.Event()
        self._moved = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_applying(self) -> bool:
        """Return whether a function of the user may run."""
        return any(each is not None and each.is_applying for each in (self.reading, self._left))

    @property
    def state(self) -> str:
        """How a health check calls the state of this stream."""
        if self._ownership.is_failing or self._outages.is_failing:
            return "no_database"
        return "active" if self.reading is not None else "standby" if self._opened.done() else "opening"

    # --- opening -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Claim the rows and begin to read; or return because another member owns them, and stand by.

        Raises ConfigError, PositionInvalid, StreamNotFound, ServerError, Timeout, Closed, and the sink's errors.
        """
        info = await self._services.known_streams.ensure(self.stream)
        if info.retention != "limits":
            raise ConfigError(
                f"stream {self.stream!r} has retention={info.retention!r}, which removes an event once it is "
                "acknowledged. A projection reads without acknowledging, and each version begins with the first event, "
                "so it would lose events: it needs a stream with the retention limits",
                argument="streams",
            )
        if self._dead_letter_stream is not None:
            await self._services.dead_letters.check(self._dead_letter_stream, info)
        self._task = self._loop.create_task(self._run(), name=f"eda {self._options.label} {self.stream}")
        await asyncio.wait({self._task, self._opened}, return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.done():
            self._task.result()

    def _is_opened(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    async def _begin(self) -> Reading:
        """Claim the rows, however long that takes, and begin to read after them."""
        rows = await self._ownership.claim(self._checked, self._is_opened)
        skips_part = lowest_up_to(rows) == self._not_asked_for
        reading = Reading(
            self._services, self.stream, self._options, rows, self._new_host, self._on_user_code, skips_part=skips_part
        )
        self._failed = self._loop.create_future()
        self.reading = reading
        self._ownership.keep(lambda: reading.rows)
        await reading.open()
        self._on_moved()
        return reading

    async def _checked(self, rows: list[PositionRow]) -> str:
        return (await self._check.check(rows)).created

    def _new_host(self, subscription: Subscription) -> LaneHost:
        return LaneHost(
            self._sink,
            self._options,
            self._apply,
            self._logger,
            self._outages,
            self._failures,
            self._dead_letters,
            self.counts,
            None if self._around is None else partial(self._around, subscription),
            partial(self._waiters.is_awaited, self.stream),
            self._on_moved,
            self._on_dead,
        )

    # --- running -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Read while this member owns the rows, and stand by otherwise, until an error ends the projection."""
        pause_s = AGAIN_FIRST_S
        while True:
            try:
                reading = await self._begin()
                self._is_opened()
                pause_s = AGAIN_FIRST_S
                await self._read(reading)
            except ClaimLost:
                self._ownership.lose()
            except PartGone:
                # The check before the next claim ends the projection if the pack is gone. If the stream still has it,
                # the filter leaves it out now.
                self._not_asked_for = part = lowest_up_to(reading.rows)
                self._logger.warning(PART_GONE, self._options.label, part.sequence, self.stream, part.index)
            except Rewound:
                self._logger.warning(REWOUND, self._options.label, self.stream)
            except Exception as error:
                if not self._opened.done():
                    raise
                if not self._may_pass(error):
                    self._on_end(error)
                    return
                level = self._retries.level(self._services.wire.trouble_level)
                self._logger.log(level, AGAIN, self._options.label, self.stream, pause_s, error)
                await self._leave()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, AGAIN_MAX_S)
                continue
            await self._leave()

    async def _read(self, reading: Reading) -> None:
        """Read until that can't go on. Raises why."""
        works = [reading.wait(), self._pass_over(reading), self._keep_checking(reading)]
        if self._options.lanes > 1:
            works.append(self._move_idle_lanes(reading))
        tasks = [self._loop.create_task(work) for work in works]
        try:
            await asyncio.wait({*tasks, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for each in (self._failed, *tasks):
                if each.done():
                    each.result()
            raise Closed(self._options.label)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _leave(self) -> None:
        """End the reading, so that another one can begin."""
        if self.reading is not None:
            self._left, self.reading = self.reading, None
            await self._close_left(Deadline(self._options.timeout_s))

    async def _close_left(self, deadline: Deadline) -> None:
        reading = self._left
        if reading is not None:
            await reading.close(deadline)
            await deadline.run(self._ownership.release(reading.rows), keeps_s=deadline.left_s / 2)
            self.counts.dead += reading.subscription.stats().dead_lettered  # messages that are no events
            self._left = None

    def _may_pass(self, error: Exception) -> bool:
        """Return whether it is worth another try after this error."""
        if isinstance(error, PositionInvalid | TransactionEnded | Closed):
            return False
        if isinstance(error, ConsumerDeleted):
            return True  # the stream was made again: the check of the positions says what that means
        return self._sink.is_outage(error) or (isinstance(error, EdaError) and error.retryable)

    def _fail(self, error: Exception) -> None:
        """End the reading with this error."""
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # retrieved, should nobody read any more

    # --- positions ---------------------------------------------------------------------------------------------------

    def _on_moved(self) -> None:
        """Note that a row has moved."""
        self._ownership.wrote()
        self._moved.set()
        reading = self.reading or self._left
        if reading is not None:
            self._waiters.advanced(self.stream, *reading.position.place)

    def _on_rows(self, rows: list[PositionRow]) -> None:
        """Note how far the owner is, while this member stands by."""
        self._waiters.advanced(self.stream, *lowest_up_to(rows).place)

    def _on_dead(self, sequence: int, index: int, reason: str) -> None:
        self._waiters.not_applied(self.stream, sequence, index, reason)

    async def _pass_over(self, reading: Reading) -> None:
        """When all that was read is applied, move the rows over what the filter leaves out, once a second.

        While somebody waits for an event, the leader is asked at once, and then less and less often. The callers need
        no transaction: the row follows later. Without a filter, an event that somebody waits for is about to be
        delivered, so the leader is not asked.
        """
        due_at = self._loop.time()
        pause_s = FIRST_PASS_S
        grace = GracePeriod()
        while True:
            is_due = self._loop.time() >= due_at
            if self._wanted.is_set():
                self._wanted.clear()
                pause_s = FIRST_PASS_S
            if reading.is_idle:
                at = reading.read_to
                if is_due or (self._passing_over.has_filter and self._waiters.wanted(self.stream)):
                    try:
                        found = await self._passing_over.reach(at.whole)
                        if found is not None and at.is_part and reading.read_to == at:
                            reading.part_is_gone()
                            return
                        if found is not None:
                            at = UpTo(found.sequence, 0, found.time)
                    except EdaError as error:
                        if not grace.allows(error):
                            raise
                if reading.is_idle:
                    self._waiters.advanced(self.stream, *at.place)
                    if is_due:
                        reading.pass_to(at)
            if is_due:
                due_at = self._loop.time() + PASS_OVER_S
            await asyncio.sleep(FIRST_PASS_S)  # many callers must not become as many questions
            left_s = max(due_at - self._loop.time(), 0)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause_s, left_s) if self._waiters.wanted(self.stream) else left_s):
                    await self._wanted.wait()
            pause_s *= 2

    async def _move_idle_lanes(self, reading: Reading) -> None:
        """Move the rows of idle lanes soon after those of the others, because the lowest row counts for views."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            await asyncio.sleep(LANES_PASS_S)
            if not reading.is_idle:
                await asyncio.sleep(BUSY_LANES_PASS_S)
            reading.pass_idle_lanes()
            self._waiters.advanced(self.stream, *reading.position.place)

    async def _keep_checking(self, reading: Reading) -> None:
        """Check every 30 s, and after a lost connection, that the stream is still the one that was applied."""
        restored = asyncio.Event()
        grace = GracePeriod()
        wait_s = CHECK_S
        calls = self._services.wire.on_restored
        calls.append(restored.set)
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await restored.wait()
                restored.clear()
                wait_s = CHECK_S
                try:
                    # Without a look at the leader, nobody knows whether events that are gone were left out.
                    read_to = MAX_SEQUENCE if self._passing_over.is_forbidden else reading.received_to
                    await self._check.check(reading.rows, read_to=read_to)
                except EdaError as error:
                    if not grace.allows(error):
                        raise
                    self._logger.debug(NOT_CHECKED, self._options.label, self.stream, error)
                    wait_s = NOT_CHECKED_S
        finally:
            calls.remove(restored.set)

    async def rows(self) -> list[PositionRow]:
        """Return the rows of this stream: the lanes may have applied more than is stored. A standby asks the sink."""
        reading = self.reading
        if reading is None:
            return await self._sink.rows(self._options.name, self._options.version, self.stream)
        passed = reading.position
        return [
            row if row.up_to.place >= passed.place else row.moved(passed.sequence, passed.index, passed.time)
            for row in reading.rows
        ]  # fmt: skip

    def on_wanted(self) -> None:
        """Look at once how far the position may move, because somebody waits for an event."""
        if self.reading is not None:
            self.reading.note_commits()
        self._wanted.set()
        self._ownership.poke()

    # --- closing -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin nothing more."""
        if self.reading is not None:
            self.reading.stop()

    async def close(self, deadline: Deadline) -> None:
        """Finish the transactions under way, and release the rows."""
        if self._task is not None:
            self._task.cancel()
            await deadline.wait({self._task}, keeps_s=deadline.left_s / 2)
        if self.reading is not None:
            self._left, self.reading = self.reading, None
        await self._close_left(deadline)
        self._failures.flush()
