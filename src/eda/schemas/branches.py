"""JSON Schemas in a form that can be compared: each as a list of branches, without references and annotations.

A branch is a dict of keywords. A value fits a schema if it fits one of the branches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from eda.errors import ConfigError

__all__ = ["Branch", "branches_of", "json_type"]

Branch = dict[str, Any]

# They don't decide whether a value fits. `discriminator` only names the property that tells the branches apart, and the
# property itself has a constant in each branch.
_ANNOTATIONS = frozenset(
    (
        *("$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description", "default"),
        *("examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator", "contentMediaType"),
    )
)


def branches_of(schema: Any, root: Any, visited: tuple[str, ...] = ()) -> list[Branch]:
    """Return the branches of a schema, which is a part of `root`. Raises ConfigError if it can't be read."""
    if schema is True:
        return [{}]
    if schema is False:
        return []
    if not isinstance(schema, Mapping):
        raise ConfigError(f"not a JSON Schema: {schema!r}")
    rest = {key: value for key, value in schema.items() if not _is_annotation(key)}
    reference = rest.pop("$ref", None)
    if reference is not None:
        if reference in visited:
            raise ConfigError(f"the reference {reference!r} leads to itself")
        target = _target(reference, root)
        return _with(rest, branches_of(target, root, (*visited, reference)), root)
    every = rest.get("allOf")
    if isinstance(every, list) and len(every) == 1:
        del rest["allOf"]
        return _with(rest, branches_of(every[0], root, visited), root)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(rest.get(keyword), list):
            options = rest.pop(keyword)
            # `oneOf` also refuses values that fit two branches, but no class makes such a schema.
            return _with(rest, [branch for each in options for branch in branches_of(each, root, visited)], root)
    if "const" in rest:
        rest["enum"] = [rest.pop("const")]
    kinds = rest.get("type")
    if isinstance(kinds, list):
        return [{**rest, "type": kind} for kind in kinds]
    return [rest]


def json_type(value: Any) -> str:
    """Return the JSON type of a value; "integer" for whole numbers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _is_annotation(key: str) -> bool:
    return key in _ANNOTATIONS or (key.startswith("x-") and not key.startswith("x-eda-"))


def _with(rest: Branch, branches: list[Branch], root: Any) -> list[Branch]:
    """Return the branches, each with the keywords that stand beside them."""
    if not rest:
        return branches
    return [_both(branch, beside) for branch in branches for beside in branches_of(rest, root)]


def _both(branch: Branch, beside: Branch) -> Branch:
    both = dict(branch)
    for key, value in beside.items():
        if key not in both or both[key] == value:
            both[key] = value
        elif key == "required":
            both[key] = sorted({*both[key], *value})
        else:  # no comparison knows what both mean together; if they change, the change is reported
            both["allOf"] = [*both.get("allOf", ()), {key: value}]
    return both


def _target(reference: Any, root: Any) -> Any:
    """Return the part of the root to which a reference leads."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise ConfigError(f"the reference {reference!r} leads out of the schema")
    part = root
    for token in unquote(reference).split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if not isinstance(part, Mapping) or name not in part:
            raise ConfigError(f"the reference {reference!r} leads to nothing")
        part = part[name]
    return part
