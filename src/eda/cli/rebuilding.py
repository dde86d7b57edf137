"""`eda views rebuild`: runs the user's projection until it has caught up, and shows how far it is."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import click

import eda
from eda.amounts import duration_text
from eda.cli.modules import import_modules
from eda.cli.option_names import told
from eda.cli.session import connection
from eda.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["NotPromoted", "rebuild_view"]

LOOK_EVERY_S = 0.2
REPORT_EVERY_S = 1.0


class NotPromoted(Exception):
    """The projection has caught up, and was not promoted. The text says why."""


class Reporter(Protocol):
    """Shows how far a rebuild is."""

    def __call__(self, stats: eda.ProjectionStats, *, done: bool = False, promoted: bool = False) -> None:
        """Show the state of the projection. `done`: it has caught up."""


async def rebuild_view(function: str, server: dict[str, Any], *, promote: bool, max_lag: int, as_json: bool) -> None:
    """Run the projection that the function returns until it has caught up; then promote it if asked.

    Raises ConfigError for the function, NotPromoted, what the projection raises, and CancelledError.
    """
    make = _function(function)
    async with connection(
        server, client="eda-views", auto_create=True
    ) as conn:  # it may need a stream for dead letters
        projection = await _projection_of(make, function, conn)
        reporter, shown = _reporter(as_json)
        with shown:
            async with projection:
                stored = {name: (await conn.streams.info(name)).last_sequence for name in projection.streams}
                await _until_caught_up(projection, stored, max_lag, reporter)
                stats = await projection.stats()
                refusal = await _refused_promotion(projection, stats, max_lag) if promote else None
                reporter(stats, done=True, promoted=promote and refusal is None)
    if refusal is not None:
        raise NotPromoted(refusal)


def _function(name: str) -> Callable[[eda.Conn], object]:
    """Import the module, and return its function. Raises ConfigError."""
    module, colon, attribute = name.partition(":")
    if not colon or not attribute.isidentifier():
        raise ConfigError(f"{name!r} does not name a function: write MODULE:FUNCTION, such as shop.rebuild:order_list")
    import_modules([module])
    function = getattr(sys.modules[module], attribute, None)
    if function is None:
        raise ConfigError(f"the module {module!r} has no function {attribute!r}")
    if not callable(function):
        raise ConfigError(f"{name} is not a function, but {type(function).__name__}")
    return function  # type: ignore[no-any-return]


async def _projection_of(make: Callable[[eda.Conn], object], name: str, conn: eda.Conn) -> eda.Projection:
    try:
        made = make(conn)
        if inspect.iscoroutine(made):
            made = await made
    except (eda.EdaError, KeyboardInterrupt, asyncio.CancelledError):
        raise
    except Exception as error:
        raise ConfigError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, eda.Projection):
        raise ConfigError(
            f"{name} must return what conn.projection(...) returns, and it has returned {type(made).__name__}"
        )
    return made


async def _until_caught_up(
    projection: eda.Projection, stored: dict[str, int], max_lag: int, reporter: Reporter
) -> None:
    """Wait until the events up to the sequences `stored` are applied, and at most `max_lag` newer ones are not.

    Raises the error that ends the projection.
    """
    ended = asyncio.ensure_future(projection.wait())
    try:
        while True:
            stats = await projection.stats()
            if stats.lag == 0 or _is_near(stats, stored, max_lag):
                return
            reporter(stats)
            await asyncio.wait({ended}, timeout=LOOK_EVERY_S)
            if ended.done():
                await ended
                raise eda.Closed(f"projection {stats.name}")
    finally:
        ended.cancel()
        await asyncio.wait({ended})


async def _refused_promotion(projection: eda.Projection, stats: eda.ProjectionStats, max_lag: int) -> str | None:
    """Promote the projection's version, and return None. If it must not be promoted, return why."""
    if stats.dead_lettered:
        return (
            f"version {stats.version} of {stats.name!r} is not promoted: {stats.dead_lettered} of its events failed "
            "and became dead letters. If it is good enough without them, promote it with `eda views promote`"
        )
    try:
        await projection.promote(max_lag=max_lag)
    except eda.ConfigError as error:
        return told(error)
    return None


def _is_near(stats: eda.ProjectionStats, stored: dict[str, int], max_lag: int) -> bool:
    """Return whether all events that were stored at the beginning are applied, and the lag is small enough."""
    has_all = {each.stream for each in stats.streams if each.position >= stored[each.stream]} == stored.keys()
    return has_all and stats.lag is not None and stats.lag <= max_lag


# --- showing ---------------------------------------------------------------------------------------------------------


def _reporter(as_json: bool) -> tuple[Reporter, AbstractContextManager[object]]:
    """Return what shows the progress, and the context in which it can."""
    if as_json:
        return _Lines(), nullcontext()
    if not sys.stderr.isatty():
        return _Sentence(), nullcontext()
    from rich.console import Console  # here, because only a terminal needs it
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from eda.cli.columns import Done, Rate

    columns = (TextColumn("{task.description}"), BarColumn(), Done(), Rate(), TimeElapsedColumn())
    bars = Progress(*columns, console=Console(stderr=True))
    return _Bar(bars), bars


class _Sentence:
    """A sentence at the end."""

    def __init__(self) -> None:
        self._began = monotonic()

    def __call__(self, stats: eda.ProjectionStats, *, done: bool = False, promoted: bool = False) -> None:
        if not done:
            return
        took = duration_text(monotonic() - self._began)
        text = f"{_label(stats)} has caught up: {stats.applied:,} events applied in {took}"
        if stats.dead_lettered:
            text += f"; {stats.dead_lettered:,} events failed and became dead letters"
        click.echo(f"{text}\nviews of {stats.name} now read version {stats.version}" if promoted else text)


class _Bar(_Sentence):
    """A progress bar on a terminal, and a sentence at the end."""

    def __init__(self, bars: Progress) -> None:
        super().__init__()
        self._bars = bars
        self._task = bars.add_task("", total=None)

    def __call__(self, stats: eda.ProjectionStats, *, done: bool = False, promoted: bool = False) -> None:
        position = sum(each.position for each in stats.streams)
        total = None if stats.lag is None else position if done else position + stats.lag
        self._bars.update(self._task, description=_label(stats), completed=position, total=total)
        if done:
            self._bars.stop()
        super().__call__(stats, done=done, promoted=promoted)


def _label(stats: eda.ProjectionStats) -> str:
    return f"{stats.name} v{stats.version}"


class _Lines:
    """One JSON object a line."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._reported: float | None = None

    def __call__(self, stats: eda.ProjectionStats, *, done: bool = False, promoted: bool = False) -> None:
        now = monotonic()
        if not done and self._reported is not None and now - self._reported < REPORT_EVERY_S:
            return
        self._reported = now
        fields: dict[str, Any] = {
            "name": stats.name,
            "version": stats.version,
            "applied": stats.applied,
            "dead_lettered": stats.dead_lettered,
            "position": sum(each.position for each in stats.streams),
            "lag": stats.lag,
            "lag_s": None if stats.lag_s is None else round(stats.lag_s, 3),
            "seconds": round(now - self._began, 3),
            "done": done,
            "promoted": promoted,
        }
        click.echo(json.dumps(fields))
