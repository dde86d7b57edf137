"""What a health check says about a subscription."""

from __future__ import annotations

from typing import Any

from eda.errors import error_text
from eda.life import Life
from eda.subscribing.pipeline import Pipeline

__all__ = ["asked_subjects", "condition_of"]


def condition_of(life: Life, pipeline: Pipeline, *, is_active: bool) -> dict[str, Any]:
    """Return what this process knows, without asking the server."""
    spec, stats, error = pipeline.spec, pipeline.stats(active=is_active), life._error
    cursor = pipeline.cursor
    is_standby = cursor is not None and not cursor.is_active
    return {
        "name": spec.name,
        "stream": spec.stream,
        "kind": "ordered" if spec.is_ordered else "shared",
        "durable": spec.is_durable,
        "state": _state_of(life, pipeline),
        "error": None if error is None else error_text(error),
        "stalled": pipeline.monitor.stall,
        "holder": (cursor.liveness.holder or None) if is_standby and cursor is not None else None,
        "lag": None,
        "lag_s": None,
        "in_flight": stats.in_flight,
        "buffered": stats.buffered,
        "handled": stats.handled,
        "failed": stats.failed,
        "redelivered": stats.redelivered,
        "dead_lettered": stats.dead_lettered,
    }


def _state_of(life: Life, pipeline: Pipeline) -> str:
    if life._stage != "open":
        return life._stage
    gate, cursor = pipeline.dispatcher.gate, pipeline.cursor
    if pipeline.source.is_suspended:
        return "suspended"
    if cursor is not None:
        if cursor.held is None:
            return "standby"
        if cursor.held.is_fenced:
            return "not_stored"
    if gate.is_paused:
        return "paused"
    return "circuit_open" if gate.is_circuit_open else "active"


async def lag_of(pipeline: Pipeline, states: StreamStates) -> dict[str, Any]:
    """Return the lag as the server knows it. Raises StreamNotFound, ServerError, Timeout, Closed."""
    spec, source, cursor = pipeline.spec, pipeline.source, pipeline.cursor
    state = await states.of(spec.stream)
    if isinstance(source, SharedSource):
        states.may_be_forbidden(f"CONSUMER.INFO.{spec.stream}.{source.consumer}")
        consumer = await source.consumer_info()
        if consumer is None:
            return {}
        info = await states.behind.of_consumer(state, consumer)
        return {"lag": info.lag, "lag_s": info.lag_s}
    assert isinstance(source, OrderedSource)
    held = None if cursor is None else cursor.held
    if cursor is not None and held is None:
        kept = await states.of_cursor(state, spec.name)
        return {} if kept is None else {"lag": kept.lag, "lag_s": kept.lag_s}
    position = pipeline.dispatcher.position if held is None else held.position.seq
    wanted = server_filter(state.info, source.filter, filters_reliably=True)
    lag, lag_s = await states.lag_after(state, position, wanted)
    return {"lag": lag, "lag_s": lag_s}


def asked_subjects(prefix: str, stream: str, name: str = "") -> list[str]:
    """Return the subjects of the requests for a lag. If the server forbids one, the report says so, not the log."""
    asked = [f"STREAM.INFO.{stream}", f"STREAM.MSG.GET.{stream}", f"DIRECT.GET.{stream}"]
    return [f"{prefix}.{each}" for each in (*asked, f"CONSUMER.INFO.{stream}.{name}")]
