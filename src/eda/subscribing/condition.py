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


def asked_subjects(prefix: str, stream: str, name: str = "") -> list[str]:
    """Return the subjects of the requests for a lag. If the server forbids one, the report says so, not the log."""
    asked = [f"STREAM.INFO.{stream}", f"STREAM.MSG.GET.{stream}", f"DIRECT.GET.{stream}"]
    return [f"{prefix}.{each}" for each in (*asked, f"CONSUMER.INFO.{stream}.{name}")]
