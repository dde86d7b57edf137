"""Constraints of single values: limits, lengths, patterns and formats. What a reader demands beyond the writer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from eda.schemas.branches import Branch, json_type
from eda.schemas.finding import Gap
from eda.schemas.type_schema import NUMBER_KEYS

__all__ = ["accepts", "constraint_gaps"]

# Which keywords limit which type, as (lower, upper).
_BYTES = ("x-eda-minBytes", "x-eda-maxBytes")
_LENGTHS = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}
_NUMBERS = ("integer", "number")
# Each text of the first format or pattern is a text of the second one.
_FORMATS = {
    ("date-time", "iso-date-time"),
    ("local-date-time", "iso-date-time"),
    ("time", "iso-time"),
    ("local-time", "iso-time"),
    NUMBER_KEYS,
}
# MessagePack has types of its own for these, so there a text does not stand for them.
_BINARY = {"date-time", "iso-date-time", "local-date-time", "base64", *NUMBER_KEYS}


def constraint_gaps(writer: Branch, reader: Branch, kind: str | None, is_binary: bool) -> Iterator[Gap]:
    """Yield what the reader demands of a value of this type, and the writer does not promise.

    `is_binary`: the payload may be MessagePack, which has datetimes and bytes of its own.
    """
    if kind is None or kind in _NUMBERS:
        yield from _number_gaps(writer, reader)
    for each, keywords in _LENGTHS.items():
        if kind in (None, each):
            is_of_bytes = each == "string" and any(bound in reader for bound in _BYTES)
            yield from _length_gaps(writer, reader, _BYTES if is_of_bytes else keywords)
    if kind in (None, "string"):
        yield from _text_gaps(writer, reader, is_binary)
    if kind in (None, "array") and reader.get("uniqueItems") and not writer.get("uniqueItems"):
        yield Gap("", "limit", "{writer} may have the same item twice here, but {reader} expects a set")


def accepts(value: Any, reader: Branch) -> bool:
    """Return whether the reader's branch accepts a constant. False if that can't be judged."""
    kind = json_type(value)
    if "enum" in reader:
        return any(_same(value, other) for other in reader["enum"])
    if reader.get("type") not in (None, kind, "number" if kind == "integer" else None):
        return False
    if kind in ("array", "object"):
        return set(reader) <= {"type"}
    bounds: Branch = {}
    if kind == "string":
        if "format" in reader or "contentEncoding" in reader or not _matches(reader.get("pattern"), value):
            return False
        bounds = {"minLength": len(value), "maxLength": len(value)}
    elif kind in _NUMBERS:
        if "multipleOf" in reader and Fraction(value) % Fraction(str(reader["multipleOf"])):
            return False
        bounds = {"minimum": value, "maximum": value, "multipleOf": reader.get("multipleOf")}
    gaps = [*_number_gaps(bounds, reader)] if kind in _NUMBERS else []
    gaps += _length_gaps(bounds, reader, _LENGTHS["string"]) if kind == "string" else ()
    return not gaps


def _same(value: Any, other: Any) -> bool:
    # True == 1 in Python.
    return json_type(value) == json_type(other) and bool(value == other)


def _matches(pattern: Any, value: str) -> bool:
    if pattern is None:
        return True
    try:
        return re.search(pattern, value) is not None
    except re.error:
        return False


def _bound(branch: Branch, sign: int) -> tuple[Fraction, bool] | None:
    """Return the tightest lower (sign 1) or upper (-1) bound, times the sign, and whether it is excluded itself."""
    inclusive, exclusive = ("minimum", "exclusiveMinimum") if sign > 0 else ("maximum", "exclusiveMaximum")
    bounds = []
    if branch.get(inclusive) is not None:
        bounds.append((sign * Fraction(str(branch[inclusive])), False))
    if branch.get(exclusive) is not None:
        bound, excluded = sign * Fraction(str(branch[exclusive])), True
        if branch.get("type") == "integer" and bound.denominator == 1:
            bound, excluded = bound + 1, False
        bounds.append((bound, excluded))
    return max(bounds) if bounds else None


def _number_gaps(writer: Branch, reader: Branch) -> Iterator[Gap]:
    for sign, keywords in ((1, ("minimum", "exclusiveMinimum")), (-1, ("maximum", "exclusiveMaximum"))):
        wanted, promised = _bound(reader, sign), _bound(writer, sign)
        if wanted is not None and (promised is None or promised < wanted):
            yield _limit_gap(writer, reader, keywords)
    factor, multiple = reader.get("multipleOf"), writer.get("multipleOf")
    if factor is None or multiple == factor:
        return
    if writer.get("type") == "integer" and multiple is None:
        multiple = 1
    if multiple is None or Fraction(str(multiple)) % Fraction(str(factor)):
        yield _limit_gap(writer, reader, ("multipleOf",))


def _length_gaps(writer: Branch, reader: Branch, keywords: tuple[str, str]) -> Iterator[Gap]:
    lower, upper = keywords
    if reader.get(lower, 0) > writer.get(lower, 0):
        yield _limit_gap(writer, reader, (lower,))
    if upper in reader and (upper not in writer or writer[upper] > reader[upper]):
        yield _limit_gap(writer, reader, (upper,))


def _text_gaps(writer: Branch, reader: Branch, is_binary: bool) -> Iterator[Gap]:
    for keyword in ("pattern", "format", "contentEncoding"):
        wanted, promised = reader.get(keyword), writer.get(keyword)
        if wanted == promised:
            continue
        if (promised, wanted) in _FORMATS:
            continue
        if wanted is not None:
            yield _limit_gap(writer, reader, (keyword,))
        elif is_binary and promised in _BINARY:
            change = f"{{writer}} has {keyword} {promised!r}, which MessagePack does not write as a text"
            yield Gap("", "type", f"{change}, but {{reader}} expects a text")


def _limit_gap(writer: Branch, reader: Branch, keywords: tuple[str, ...]) -> Gap:
    wanted, promised = _shown(reader, keywords), _shown(writer, keywords)
    return Gap("", "limit", f"{{reader}} requires {wanted}, but {{writer}} has {promised}")


def _shown(branch: Branch, keywords: tuple[str, ...]) -> str:
    found = [f"{keyword} {branch[keyword]!r}" for keyword in keywords if branch.get(keyword) is not None]
    return " and ".join(found) or f"no {keywords[0]}"
