"""The log calls in the sources: what each may write at which levels, and with which fields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LogCall", "calls_in"]

METHODS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR", "critical": "CRITICAL"}
FIELDS_OF_EVENT = ("eda_attempt", "eda_event_id", "eda_sequence", "eda_stream", "eda_subscription", "eda_type")


_SUBSCRIPTION = frozenset({"eda_stream", "eda_subscription"})

# Files whose logger was given its fields by another file.
INHERITED: dict[str, frozenset[str]] = {
    "cursors/entry.py": _SUBSCRIPTION,
    "cursors/position.py": _SUBSCRIPTION,
    "handling/failure_log.py": frozenset(FIELDS_OF_EVENT),
    "projections/applying.py": frozenset({"eda_projection", "eda_stream"}),
    "projections/moving.py": frozenset({"eda_projection", "eda_stream"}),
    "projections/outage_log.py": frozenset({"eda_projection"}),
    "subscribing/moved_position.py": _SUBSCRIPTION,
    "subscribing/ordered_source.py": _SUBSCRIPTION,
    "subscribing/shared_source.py": _SUBSCRIPTION,
    "subscribing/unwanted.py": _SUBSCRIPTION,
}


@dataclass(frozen=True)
class LogCall:
    """A log call. `text` is None if it is not a constant; `level` is None if it is chosen when the call is made."""

    path: str
    line: int
    level: str | None
    text: str | None
    fields: frozenset[str]


def calls_in(source: Path) -> list[LogCall]:
    """Return all log calls of a package."""
    return [call for path in sorted(source.rglob("*.py")) for call in _calls_of(path, source)]


def _calls_of(path: Path, source: Path) -> Iterator[LogCall]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = dict(_constants(tree))
    bound = frozenset(name for node in ast.walk(tree) for name in _bound_by(node))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        method, owner = node.func.attr, ast.unparse(node.func.value)
        where = path.relative_to(source).as_posix(), node.lineno
        if method == "_log_or_count":
            level = next((ast.unparse(each.value) for each in node.keywords if each.arg == "level"), "logging.ERROR")
            text = _text(node.args[2], constants)
            yield LogCall(*where, level.rpartition(".")[2], text, bound | frozenset(FIELDS_OF_EVENT))
        elif owner.lower().endswith("logger") and method in (*METHODS, "exception", "log"):
            given = node.args[1:] if method == "log" else node.args
            level = "ERROR" if method == "exception" else METHODS.get(method)
            fields = bound | _extra_of(node) | INHERITED.get(where[0], frozenset())
            yield LogCall(*where, level, _text(given[0], constants), fields)


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = _text(node.value, {})
            if text is not None:
                yield node.targets[0].id, text


def _text(node: ast.expr, constants: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return constants.get(node.id) if isinstance(node, ast.Name) else None


def _bound_by(node: ast.AST) -> set[str]:
    """Return the fields that a logger is given for all its records."""
    is_binding = isinstance(node, ast.Call) and ast.unparse(node.func) in ("with_fields", "safe_logger")
    return {each.arg for each in node.keywords if each.arg} if is_binding and isinstance(node, ast.Call) else set()


def _extra_of(call: ast.Call) -> set[str]:
    """Return the fields that one call adds: those of a dict that is written there, or merged from such dicts."""
    found: set[str] = set()
    for keyword in call.keywords:
        if keyword.arg == "extra":
            for node in ast.walk(keyword.value):
                if isinstance(node, ast.Dict):
                    found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    return found
