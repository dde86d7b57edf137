"""`conn.health`: how well a connection is, with all that it runs, found out within a given time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from nats.errors import Error as NatsError

from eda.conn_services import ConnServices
from eda.errors import ConfigError, EdaError
from eda.health_verdict import verdict_of
from eda.life import Life
from eda.lifetime import Lifetime
from eda.log import problems_of
from eda.publishing.condition import condition_of
from eda.recent_problems import Problem
from eda.times import time_text
from eda.transport.loops import check_loop

__all__ = ["Health"]

MAX_TIMEOUT_S = 60.0
SILENT_S = 0.5  # a server that owes the answer to a ping for this long is silent; less may be the network's time
MAX_REQUESTS = 16  # subscriptions and projections whose lags are measured at the same time
N_ERRORS = 10  # the last errors that are shown

# The lists of a report: what the connection runs.
GROUPS = ("subscriptions", "projections", "views", "relays")


class _Measuring:
    """The requests of one health check, which all callers of the time share."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self.n_waiting = 0
        self.found: dict[Life, dict[str, Any]] = {}
        self.failed: dict[Life, str] = {}
        self._limit = asyncio.Semaphore(MAX_REQUESTS)
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._measure(lives))

    async def _measure(self, lives: Sequence[Life]) -> None:
        async with asyncio.TaskGroup() as group:
            for life in lives:
                group.create_task(self._measure_one(life))

    async def _measure_one(self, life: Life) -> None:
        async with self._limit:
            try:
                self.found[life] = await life._lags()
            except (EdaError, NatsError) as error:
                self.failed[life] = str(error)


class Health:
    """The health of one connection."""

    def __init__(self, lifetime: Lifetime, client: str, logger: logging.Logger) -> None:
        self._lifetime = lifetime
        self._client = client
        self._problems = problems_of(logger)
        self._measuring: _Measuring | None = None
        self._pinged_at = 0.0  # when the ping that is shared now was sent, on the loop's clock
        self._ping: asyncio.Task[float] | None = None

    async def check(self, timeout_s: float) -> dict[str, Any]:
        """Do what `Conn.health` says."""
        is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
        if not is_number or not 0 <= timeout_s <= MAX_TIMEOUT_S:
            raise ConfigError(f"timeout_s must be between 0 and {MAX_TIMEOUT_S:g}: {timeout_s!r}", argument="timeout_s")
        lifetime = self._lifetime
        if lifetime.loop is not None and lifetime.state != "closed":
            check_loop(lifetime.loop)
        services = lifetime.services
        if services is None or not services.wire.is_up:
            return self._report(services, None)
        measuring, ping = self._join(), self._sent_ping(services)
        try:
            await asyncio.wait({measuring.task, ping}, timeout=timeout_s)
        finally:
            measuring.n_waiting -= 1
            if not measuring.n_waiting:
                measuring.task.cancel()
        return self._report(services, measuring)

    def _join(self) -> _Measuring:
        """Return the requests that are under way for other callers, or begin new ones."""
        lives = [life for life in self._lives if life._stage == "open"]
        measuring = self._measuring
        if measuring is None or measuring.task.done() or not measuring.n_waiting:
            measuring = self._measuring = _Measuring(lives)
            self._lifetime.run_until_closed(measuring.task)
        measuring.n_waiting += 1
        return measuring

    def _sent_ping(self, services: ConnServices) -> asyncio.Task[float]:
        ping = services.wire.ping()
        before, self._ping = self._ping, ping
        # A ping without an answer ends after a while. The next one continues the same silence.
        was_silent = before is not None and before.done() and not before.cancelled() and before.exception() is not None
        if ping is not before and not was_silent:
            self._pinged_at = asyncio.get_running_loop().time()
        return ping

    @property
    def _lives(self) -> list[Life]:
        return [*self._lifetime.subscriptions, *self._lifetime.sides]

    # --- the report --------------------------------------------------------------------------------------------------

    def _report(self, services: ConnServices | None, measuring: _Measuring | None) -> dict[str, Any]:
        lifetime = self._lifetime
        log = lifetime.log
        is_connected = services is not None and services.wire.is_up
        failure = services.wire.last_failure if services is not None and not is_connected else ""
        unknown: list[str] = []
        report: dict[str, Any] = {
            "status": "ok",
            "problems": [],
            "unknown": unknown,
            "time": time_text(time.time_ns()),
            "client": self._client,
            "connected": is_connected,
            "state": lifetime.state,
            "closing": lifetime.is_closing,
            "connected_since": time_text(log.connected_ns) if log is not None and is_connected else None,
            "disconnected_s": None if is_connected or log is None or log.lost_s is None else round(log.lost_s, 3),
            "last_failure": failure or None,
            "reconnects": 0 if log is None else log.n_reconnects,
            "server": self._server(is_connected=is_connected, unknown=unknown),
            "publishers": self._publishers(services),
            **self._conditions(measuring, unknown, is_connected=is_connected),
            "last_errors": [_shown(problem) for problem in self._problems.latest(N_ERRORS)],
        }
        report["status"], report["problems"] = verdict_of(report)
        return report

    def _server(self, *, is_connected: bool, unknown: list[str]) -> dict[str, Any]:
        log = self._lifetime.log
        if log is None:
            address = str(self._lifetime.addresses)
            return {"name": None, "version": None, "address": address, "round_trip_s": None, "silent_s": None}
        round_trip_s = silent_s = None
        if is_connected and self._ping is not None:
            waited_s = asyncio.get_running_loop().time() - self._pinged_at
            if self._ping.done() and not self._ping.cancelled() and self._ping.exception() is None:
                round_trip_s = round(self._ping.result(), 6)
            elif waited_s >= SILENT_S:
                silent_s = round(waited_s, 3)
            if round_trip_s is None:
                unknown.append("the round trip time: the server did not answer in time")
        server = log.server
        return {
            "name": server.name,
            "version": server.version,
            "address": server.address,
            "round_trip_s": round_trip_s,
            "silent_s": silent_s,
        }

    def _conditions(
        self, measuring: _Measuring | None, unknown: list[str], *, is_connected: bool
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the conditions of all that runs, and of what an error has ended, by group."""
        groups: dict[str, list[dict[str, Any]]] = {name: [] for name in GROUPS}
        for life in self._lives:
            condition = life._condition()
            if life._has_lags:
                condition |= self._measured(life, condition, measuring, unknown, is_connected=is_connected)
            groups[life._health_group].append(condition)
        for ended in self._lifetime.ended.values():
            groups[ended.group].append(ended.condition)
        for group, conditions in groups.items():
            for condition in conditions:
                condition["last_error"] = _shown_or_none(self._last_problem(group, condition))
            conditions.sort(key=lambda each: (str(each.get("stream", "")), str(each["name"])))
        return groups

    def _measured(
        self,
        life: Life,
        condition: dict[str, Any],
        measuring: _Measuring | None,
        unknown: list[str],
        *,
        is_connected: bool,
    ) -> dict[str, Any]:
        """Return what was measured of the condition, and say what was not."""
        found: dict[str, Any] = {}
        why = "it is not open" if life._stage != "open" else "the server did not answer in time"
        if not is_connected:
            why = "there is no connection"
        elif measuring is not None:
            found = measuring.found.get(life, {})
            why = "the server does not tell" if found else measuring.failed.get(life, why)
        parts = (condition | found).get("streams")
        for part in [condition | found] if parts is None else parts:
            if part["lag"] is None or part["lag_s"] is None:
                behind = "" if parts is None else f" behind stream {part['stream']}"
                reason = "another member applies it" if part["state"] == "standby" and parts is not None else why
                unknown.append(f"the lag of {life.label}{behind}: {reason}")
        return found

    def _last_problem(self, group: str, condition: dict[str, Any]) -> Problem | None:
        name = condition["name"]
        if group == "subscriptions":
            return self._problems.last_of(eda_stream=condition["stream"], eda_subscription=name)
        if group == "relays":
            return self._problems.last_of(eda_outbox=name)
        return self._problems.last_of(eda_projection=f"{name}-v{condition['version']}" if group[0] == "p" else name)

    def _publishers(self, services: ConnServices | None) -> list[dict[str, Any]]:
        """Return the conditions of the publishers, and of the calls of `publish` that are under way, by stream."""
        found = [{"kind": "publisher", **condition_of(each)} for each in self._lifetime.publishers]
        for stream, stats in services.stream_publishers.stats() if services is not None else ():
            if stats.pending and services is not None:
                known = services.known_streams.known.get(stream)
                found.append(
                    {
                        "kind": "publish",
                        "stream": stream,
                        "state": None,
                        "mode": None,
                        "pending": stats.pending,
                        "pending_bytes": stats.pending_bytes,
                        "failed": stats.failed,
                        "oldest_pending_s": round(stats.oldest_pending_s, 3),
                        "timeout_s": None if known is None else known.usual_s,
                    }
                )
        for each in found:
            last = self._problems.last_of(
                eda_stream=each["stream"], eda_subscription=None, eda_projection=None, eda_outbox=None
            )
            each["last_error"] = _shown_or_none(last)
        return sorted(found, key=lambda each: (each["stream"], each["kind"]))


def _shown_or_none(problem: Problem | None) -> dict[str, Any] | None:
    return None if problem is None else _shown(problem)


def _shown(problem: Problem) -> dict[str, Any]:
    """Return a problem ready for JSON."""
    about = {
        name.removeprefix("eda_"): value
        for name in ("eda_stream", "eda_subscription", "eda_projection", "eda_outbox")
        if (value := problem.fields.get(name)) is not None
    }
    level = logging.getLevelName(problem.level).lower()
    return {"time": time_text(problem.time_ns), "level": level, "text": problem.text, **about}
