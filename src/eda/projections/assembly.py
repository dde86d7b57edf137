"""Puts a projection or a view together from the arguments of `Conn.projection` and `Conn.view`, which are checked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from eda.life import OnLife
from eda.projections.apply_function import apply_function
from eda.projections.options import DEFAULT_RETRY, check_projection_name, check_sink, projection_options
from eda.projections.projection import Projection
from eda.projections.sink import Sink
from eda.projections.stream_runner import Around
from eda.projections.view import View
from eda.subscribing.services import Services
from eda.typed.upcasters import check_upcasters

__all__ = ["new_projection", "new_view"]


def new_projection(
    services: Services,
    streams: str | Collection[str],
    apply: Any,
    into: Sink,
    *,
    around: Around | None,
    on_opening: OnLife,
    on_closed: OnLife,
    **arguments: Any,
) -> Projection:
    """Return a projection, as `Conn.projection` says. Raises ConfigError for wrong arguments."""
    if arguments["retry"] is None:
        arguments["retry"] = DEFAULT_RETRY
    sink = check_sink(into)
    options = projection_options(streams, sink, **arguments)
    applied = apply_function(apply, sink, is_single=options.batch is None)
    check_upcasters()
    if options.types is None and applied.types is not None:
        options = replace(options, types=applied.types)
    return Projection(services, options, applied, sink, around, on_opening, on_closed)


def new_view(services: Services, name: str, into: Sink, *, on_opening: OnLife, on_closed: OnLife) -> View:
    """Return a view, as `Conn.view` says. Raises ConfigError for wrong arguments."""
    return View(services, check_projection_name(name), check_sink(into), on_opening, on_closed)
