"""The comparison of two JSON Schemas: which payloads of a writer a reader does not read.

A writer is a class, so it writes only the properties that its schema names, unless `additionalProperties` says
otherwise. A reader skips properties that it does not know, unless `additionalProperties` forbids them. JSON Schema
itself does not tell the two apart: by its rules, every new optional property would be a breaking change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from eda.schemas.branches import Branch, branches_of, json_type
from eda.schemas.constraints import accepts, constraint_gaps
from eda.schemas.finding import Gap
from eda.schemas.pydantic_schema import COMPUTED

__all__ = ["coverage_gaps"]

_MAX_GAPS = 50  # of one pair of schemas
_KNOWN = frozenset(
    (
        *("type", "enum", "properties", "required", "additionalProperties", "propertyNames", "minProperties"),
        *("maxProperties", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "minimum", "maximum"),
        *("exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "format"),
        *("contentEncoding", "x-eda-minBytes", "x-eda-maxBytes"),
    )
)
_RECURSIVE = "recursive"


def coverage_gaps(writer: Any, reader: Any, *, is_binary: bool = False) -> list[Gap]:
    """Return the gaps between a writer's schema and a reader's schema. An empty list: all payloads can be read.

    `is_binary`: the payload may be MessagePack. Raises ConfigError for a schema that can't be read.
    """
    if _is_same(writer, reader):
        return []
    return _Comparison(writer, reader, is_binary).gaps()


def _is_same(one: Any, other: Any) -> bool:
    # In Python, 1 == True.
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


class _Comparison:
    """Compares all pairs of schemas that a pair of roots leads to.

    Schemas may contain themselves. So a pair that is met again while it is compared counts as covered. If it turns out
    not to be covered, everything is compared once more with this knowledge, until nothing new turns out.
    """

    def __init__(self, writer: Any, reader: Any, is_binary: bool) -> None:
        self.writer = writer
        self.reader = reader
        self.is_binary = is_binary
        self.not_covered: set[str] = set()
        self.results: dict[str, list[Gap] | None] = {}  # None while the pair is compared

    def gaps(self) -> list[Gap]:
        while True:
            n_before = len(self.not_covered)
            self.results = {}
            gaps = self.compare(self.writer, self.reader)
            if len(self.not_covered) == n_before:
                return [gap for gap in gaps if gap.kind != _RECURSIVE] or gaps

    def compare(self, writer: Any, reader: Any) -> list[Gap]:
        """Return the gaps of one pair, with paths that begin there."""
        if reader is True or reader == {}:
            return []
        branches, options = branches_of(writer, self.writer), branches_of(reader, self.reader)
        key = json.dumps([branches, options], sort_keys=True)
        if key in self.results:
            known = self.results[key]
            if known is None:
                changed = "{writer} may have a value here that {reader} does not read"
                return [Gap("", _RECURSIVE, changed)] if key in self.not_covered else []
            return known
        self.results[key] = None
        found: dict[Gap, None] = {}
        for branch in branches:
            found |= dict.fromkeys(self.gaps_of_branch(branch, options))
        gaps = sorted(found, key=lambda gap: gap.kind == _RECURSIVE)[:_MAX_GAPS]
        if gaps:
            self.not_covered.add(key)
        self.results[key] = gaps
        return gaps

    def gaps_of_branch(self, writer: Branch, readers: list[Branch]) -> list[Gap]:
        """Return the gaps between one branch and the branch of the reader that is most like it."""
        if "enum" not in writer and writer.get("type") in ("boolean", "null"):
            has_type = any(reader.get("type") == writer["type"] and "enum" not in reader for reader in readers)
            if not has_type:
                writer = {**writer, "enum": [None] if writer["type"] == "null" else [False, True]}
        if "enum" in writer:
            return _gaps_of_values(writer["enum"], readers)
        candidates = [reader for reader in readers if _fits(writer, reader)]
        if not candidates:
            return [_type_gap(_named(writer), readers)]
        same_tag = [reader for reader in candidates if not self.other_tag(writer, reader)]
        if not same_tag:
            name, value = self.other_tag(writer, candidates[0]) or ("", None)
            return [_value_gap(f".{name}", value)]
        results = [list(dict.fromkeys(self.gaps_of_pair(writer, reader))) for reader in same_tag]
        return min(results, key=len)

    def other_tag(self, writer: Branch, reader: Branch) -> tuple[str, Any] | None:
        """Return the property, and its value, by which the writer's branch is not the one that the reader means."""
        theirs = _read_by(reader)
        for name, schema in writer.get("properties", {}).items():
            mine = _constants(branches_of(schema, self.writer)) if name in theirs else []
            wanted = _constants(branches_of(theirs[name], self.reader)) if mine else []
            if wanted and not accepts(mine[0], {"enum": wanted}):
                return name, mine[0]
        return None

    def gaps_of_pair(self, writer: Branch, reader: Branch) -> Iterator[Gap]:
        """Yield the gaps of two branches whose types fit each other."""
        kind = writer.get("type", reader.get("type"))
        if "enum" in reader:
            known = ", ".join(repr(value) for value in reader["enum"])
            yield Gap(
                "", "value", f"{{writer}} may have other values here than {known}, but {{reader}} knows only these"
            )
        yield from constraint_gaps(writer, reader, kind, self.is_binary)
        if kind in (None, "object"):
            yield from self.object_gaps(writer, reader)
        if kind in (None, "array"):
            yield from self.array_gaps(writer, reader)
        for keyword in sorted(set(reader) - _KNOWN):
            if not _is_same(writer.get(keyword), reader[keyword]):
                yield Gap(
                    "", "unjudged", f"the keyword {keyword} changed, and its effect on {{reader}} can't be judged"
                )

    def object_gaps(self, writer: Branch, reader: Branch) -> Iterator[Gap]:
        mine: Branch = writer.get("properties", {})
        theirs = _read_by(reader)
        others = writer.get("additionalProperties", "properties" not in writer or "patternProperties" in writer)
        promised = writer.get("required", ())
        for name in reader.get("required", ()):
            if name not in mine and others is False:
                yield Gap(f".{name}", "required", "{writer} does not have this field, but {reader} requires it")
            elif name not in promised:
                yield Gap(f".{name}", "required", "{writer} may lack this field, but {reader} requires it")
        allowed = reader.get("additionalProperties", True)
        for name, schema in mine.items():
            if name in theirs:
                yield from _below(f".{name}", self.compare(schema, theirs[name]))
            elif allowed is False:
                refusal = "{writer} may have this field, but {reader} refuses fields that it does not know"
                yield Gap(f".{name}", "unknown", refusal)
            else:
                yield from _below(f".{name}", self.compare(schema, allowed))
        if others is not False:
            for name in sorted(theirs.keys() - mine.keys()):
                yield from _below(f".{name}", self.compare(others, theirs[name]))
            if allowed is False:
                yield Gap(
                    "", "unknown", "{writer} may have any field, but {reader} refuses fields that it does not know"
                )
            else:
                yield from _below(".*", self.compare(others, allowed))
            # In JSON a key is always a text, but in MessagePack it may be a number.
            if "propertyNames" in reader or (self.is_binary and "propertyNames" in writer):
                names = {"type": "string", **writer.get("propertyNames", {})}
                gaps = self.compare(names, {"type": "string", **reader.get("propertyNames", {})})
                yield from _below(".*", [gap._replace(change=f"in the field's name: {gap.change}") for gap in gaps])

    def array_gaps(self, writer: Branch, reader: Branch) -> Iterator[Gap]:
        mine, theirs = writer.get("prefixItems", []), reader.get("prefixItems", [])
        others, allowed = writer.get("items", "prefixItems" not in writer), reader.get("items", True)
        titles = [_title(item) for item in theirs]
        for index in range(max(len(mine), len(theirs))):
            item = mine[index] if index < len(mine) else others
            if item is False or writer.get("maxItems", index + 1) <= index:
                break
            wanted = theirs[index] if index < len(theirs) else allowed
            title = _title(item)
            if title in titles and index < len(titles) and titles[index] not in (None, title):
                yield Gap(
                    f"[{index}]", "moved", f"{{writer}} has {title!r} here, where {{reader}} expects {titles[index]!r}"
                )
            if wanted is False and reader.get("maxItems") != index:
                yield Gap(f"[{index}]", "unknown", "{writer} may have an item here, but {reader} expects none")
            elif wanted is not False:
                yield from _below(f"[{index}]", self.compare(item, wanted))
        if others is not False and not (allowed is False and "maxItems" in reader):
            yield from _below("[]", self.compare(others, allowed))


def _read_by(reader: Branch) -> Branch:
    """Return the properties that the reader reads. It may write others, which it computes."""
    properties: Branch = reader.get("properties", {})
    return {
        name: schema
        for name, schema in properties.items()
        if not (isinstance(schema, dict) and schema.get(COMPUTED) is True)
    }


def _below(path: str, gaps: list[Gap]) -> Iterator[Gap]:
    for gap in gaps:
        yield gap._replace(path=path + gap.path)


def _title(schema: Any) -> str | None:
    return schema.get("title") if isinstance(schema, dict) else None


def _fits(writer: Branch, reader: Branch) -> bool:
    """Return whether the reader's branch takes values of the writer's type, perhaps not all of them."""
    wanted = reader.get("type")
    kind = writer.get("type")
    if wanted is None and "enum" in reader:
        return kind in {json_type(value) for value in reader["enum"]}
    if kind in ("integer", "number") and reader.get("format") == "decimal":
        return True  # a Decimal is written as a text, and read from a number as well
    return wanted in (None, kind) or (kind, wanted) == ("integer", "number")


def _constants(branches: list[Branch]) -> list[Any]:
    """Return the only value that the branches allow, in a list; an empty list if they allow several."""
    values: list[Any] = [value for branch in branches for value in branch.get("enum", (None, None))]
    return values if len(values) == 1 else []


def _gaps_of_values(values: list[Any], readers: list[Branch]) -> list[Gap]:
    missing = [value for value in values if not any(accepts(value, reader) for reader in readers)]
    wanted = {reader.get("type") for reader in readers if "enum" not in reader}
    wanted |= {json_type(value) for reader in readers for value in reader.get("enum", ())}
    gaps = []
    for value in missing:
        kind = json_type(value)
        is_of_type = kind in wanted or None in wanted or (kind == "integer" and "number" in wanted)
        gaps.append(_value_gap("", value) if is_of_type else _type_gap(kind, readers))
    return list(dict.fromkeys(gaps))


def _value_gap(path: str, value: Any) -> Gap:
    return Gap(path, "value", f"{{writer}} may have the value {value!r} here, but {{reader}} does not accept it")


def _type_gap(kind: str, readers: list[Branch]) -> Gap:
    wanted = " or ".join(sorted({_named(reader) for reader in readers})) or "nothing"
    return Gap("", "type", f"{{writer}} may have {kind} here, but {{reader}} accepts only {wanted}")


def _named(branch: Branch) -> str:
    """Return the JSON type of a branch, for people."""
    if "type" in branch:
        return str(branch["type"])
    kinds = sorted({json_type(value) for value in branch.get("enum", ())})
    return " or ".join(kinds) or "any value"
