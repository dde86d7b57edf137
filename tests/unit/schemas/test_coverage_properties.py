"""eda.schemas: whenever two schemas are found compatible, msgspec reads the payloads of one class into the other class.

The classes are made at random, and the second one by a few changes of the first. msgspec is the judge.
"""

from __future__ import annotations

import base64
import datetime
import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from eda.encodings import decode_value, encode_value
from eda.errors import EncodeError
from eda.schemas.coverage import coverage_gaps
from eda.schemas.json_schema import json_schema

NAMES = ("a", "b", "c", "d")
TAGS = ("one", "two", "three")
WORDS = ("red", "green", "blue")
LARGE = 2**53


@dataclass(frozen=True)
class Spec:
    """A type: its kind, the types in it, and its limits."""

    kind: str
    parts: tuple[Spec, ...] = ()
    low: int | None = None
    high: int | None = None
    values: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    optional: tuple[bool, ...] = ()
    tag: str | None = None
    strict: bool = False


# --- types -----------------------------------------------------------------------------------------------------------


def type_of(spec: Spec) -> Any:
    """Return the Python type of a spec."""
    parts = [type_of(part) for part in spec.parts]
    match spec.kind:
        case "int" | "float":
            limits = {name: value for name, value in (("ge", spec.low), ("le", spec.high)) if value is not None}
            base: Any = int if spec.kind == "int" else float
            return Annotated[base, Meta(**limits)] if limits else base
        case "str" | "list":
            base = str if spec.kind == "str" else list[parts[0]]  # type: ignore[valid-type]
            lengths = {"min_length": spec.low, "max_length": spec.high}
            lengths = {name: value for name, value in lengths.items() if value is not None}
            return Annotated[base, Meta(**lengths)] if lengths else base
        case "bool" | "none" | "bytes" | "datetime" | "any":
            plain = {"bool": bool, "none": None, "bytes": bytes, "datetime": datetime.datetime, "any": Any}
            return plain[spec.kind]
        case "literal":
            return Literal[spec.values]
        case "dict":
            return dict[int if spec.strict else str, parts[0]]  # type: ignore[valid-type, misc]
        case "tuple":
            return tuple[tuple(parts)]  # type: ignore[misc]
        case "union":
            union = parts[0]
            for part in parts[1:]:
                union = union | part if part is not None else union | None
            return union
    return struct_of(spec, parts)


def struct_of(spec: Spec, parts: list[Any]) -> Any:
    fields: list[Any] = []
    for name, part, optional in zip(spec.names, parts, spec.optional, strict=True):
        fields.append((name, part, msgspec.field(default=None)) if optional else (name, part))
    is_array = spec.kind == "array"
    options = {"forbid_unknown_fields": spec.strict, "array_like": is_array, "kw_only": not is_array}
    return msgspec.defstruct("Made", fields, tag=spec.tag, omit_defaults=True, **options)


SCALARS = st.one_of(
    st.builds(
        Spec, st.sampled_from(["int", "float"]), low=st.sampled_from([None, 0, 5]), high=st.sampled_from([None, 9])
    ),
    st.builds(Spec, st.just("str"), low=st.sampled_from([None, 1]), high=st.sampled_from([None, 3])),
    st.builds(Spec, st.sampled_from(["bool", "none", "bytes", "datetime", "any"])),
    st.builds(Spec, st.just("literal"), values=st.sets(st.sampled_from([*WORDS, 1, 2]), min_size=1).map(tuple)),
)
# A union takes one type of each group, as msgspec demands.
GROUPS = {"int": "n", "float": "f", "str": "s", "bytes": "s", "datetime": "s", "bool": "b", "none": "0", "literal": "s"}


def structs(parts: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    @st.composite
    def make(draw: st.DrawFn) -> Spec:
        names = tuple(draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1)))
        kind = draw(st.sampled_from(["struct", "struct", "array"]))
        optional = [draw(st.booleans()) for _ in names]
        if kind == "array":  # fields with defaults stand last
            optional.sort()
        tag = draw(st.sampled_from([None, None, *TAGS]))
        specs = tuple(draw(parts) for _ in names)
        return Spec(kind, specs, names=names, optional=tuple(optional), tag=tag, strict=draw(st.booleans()))

    return make()


def unions(parts: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    @st.composite
    def make(draw: st.DrawFn) -> Spec:
        if draw(st.booleans()):
            tags = draw(st.lists(st.sampled_from(TAGS), unique=True, min_size=1))
            kinds = structs(parts)
            return as_union([replace(draw(kinds), kind="struct", tag=tag) for tag in tags])
        return as_union(draw(st.lists(SCALARS, min_size=1, max_size=3)))

    return make()


def as_union(specs: list[Spec]) -> Spec:
    """Return a union of those types that msgspec accepts in one."""
    kept: dict[str, Spec] = {}
    for spec in specs:
        group = spec.tag or GROUPS.get(spec.kind)
        if group is not None and not (spec.kind in ("int", "float") and {"n", "f"} & kept.keys()):
            kept.setdefault(group, spec)
    if any(spec.kind == "literal" and any(isinstance(value, int) for value in spec.values) for spec in kept.values()):
        kept.pop("n", None)
        kept.pop("f", None)
    if not kept:
        return specs[0]
    return Spec("union", tuple(kept.values())) if len(kept) > 1 else next(iter(kept.values()))


def containers(parts: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    one = parts.map(lambda part: (part,))
    return st.one_of(
        st.builds(Spec, st.just("list"), one, low=st.sampled_from([None, 1]), high=st.sampled_from([None, 2])),
        st.builds(Spec, st.just("dict"), one, strict=st.booleans()),
        st.builds(Spec, st.just("tuple"), st.lists(parts, min_size=1, max_size=3).map(tuple)),
        unions(parts),
        structs(parts),
    )


SPECS = st.recursive(SCALARS, containers, max_leaves=5)
ROOTS = structs(SPECS)


@st.composite
def changed(draw: st.DrawFn, spec: Spec, chance: int = 3) -> Spec:
    """Draw the spec with some changes."""
    if draw(st.integers(0, chance)) == 0 and spec.kind not in ("struct", "array"):
        return draw(
            st.one_of(
                SPECS,
                st.builds(
                    lambda low, high: replace(spec, low=low, high=high), *([st.sampled_from([None, 0, 1, 9])] * 2)
                )
                if spec.kind in ("int", "float", "str", "list")
                else SCALARS,
                st.just(Spec("any")),
                st.just(as_union([spec, Spec("none")])),
                st.sampled_from(spec.parts) if spec.kind == "union" else SCALARS,
                st.just(replace(spec, values=spec.values[:1])) if spec.kind == "literal" else SCALARS,
            )
        )
    parts = [draw(changed(part, chance + 1)) for part in spec.parts]
    if spec.kind == "union":
        return as_union(parts)
    if spec.kind not in ("struct", "array"):
        return replace(spec, parts=tuple(parts), strict=spec.strict ^ (spec.kind == "dict" and draw(st.booleans())))
    fields = list(zip(spec.names, parts, spec.optional, strict=True))
    change = draw(st.sampled_from(["nothing", "add", "drop", "toggle", "strict", "swap"]))
    if change == "add":
        free = [name for name in (*NAMES, "e") if name not in spec.names]
        fields.append((draw(st.sampled_from(free)), draw(SPECS), draw(st.integers(0, 3)) > 0))
    elif change == "drop" and len(fields) > 1:
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    elif change == "toggle":
        at = draw(st.integers(0, len(fields) - 1))
        fields[at] = (*fields[at][:2], not fields[at][2])
    elif change == "swap" and len(fields) > 1:
        fields.insert(0, fields.pop())
    if spec.kind == "array":
        fields.sort(key=lambda each: each[2])
    names, specs, optional = zip(*fields, strict=True)
    strict = not spec.strict if change == "strict" else spec.strict
    return replace(spec, parts=specs, names=names, optional=optional, strict=strict)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Spec, Spec]:
    old = draw(ROOTS)
    return old, draw(changed(old))


# --- payloads --------------------------------------------------------------------------------------------------------


def payloads(spec: Spec, has_defaults: bool = True) -> st.SearchStrategy[Any]:
    """Return a strategy for the plain data that a class of this spec may have stored.

    Without `has_defaults`, an array has an item for each field: the defaults of these classes don't fit their types.
    """
    match spec.kind:
        case "int":
            return (
                st.integers(-LARGE if spec.low is None else spec.low, LARGE if spec.high is None else spec.high)
                if _is_range(spec)
                else st.nothing()
            )
        case "float":
            return (
                st.floats(spec.low, spec.high, allow_nan=False, allow_infinity=False)
                if _is_range(spec)
                else st.nothing()
            )
        case "str":
            return st.text(max_size=spec.high, min_size=spec.low or 0) if _is_range(spec) else st.nothing()
        case "bool":
            return st.booleans()
        case "none":
            return st.none()
        case "bytes":
            return st.binary(max_size=4).map(lambda data: base64.b64encode(data).decode())
        case "datetime":
            zones = st.sampled_from([None, datetime.UTC])
            return st.datetimes(timezones=zones).map(datetime.datetime.isoformat)
        case "any":
            return st.one_of(
                st.none(), st.booleans(), st.integers(0, 9), st.text(max_size=2), st.just([]), st.just({"q": 1})
            )
        case "literal":
            return st.sampled_from(spec.values)
        case "list":
            sizes = {"min_size": spec.low or 0, "max_size": max(spec.low or 0, 3) if spec.high is None else spec.high}
            return st.lists(payloads(spec.parts[0], has_defaults), **sizes) if _is_range(spec) else st.nothing()
        case "dict":
            keys = st.integers(0, 9).map(str) if spec.strict else st.text(max_size=2)
            return st.dictionaries(keys, payloads(spec.parts[0], has_defaults), max_size=2)
        case "tuple":
            return st.tuples(*(payloads(part, has_defaults) for part in spec.parts)).map(list)
        case "union":
            return st.one_of(*(payloads(part, has_defaults) for part in spec.parts))
    return _field_payloads(spec, has_defaults)


def _is_range(spec: Spec) -> bool:
    return spec.high is None or (spec.low or 0) <= spec.high


@st.composite
def _field_payloads(draw: st.DrawFn, spec: Spec, has_defaults: bool) -> Any:
    made: dict[str, Any] = {} if spec.tag is None else {"type": spec.tag}
    for name, part, optional in zip(spec.names, spec.parts, spec.optional, strict=True):
        if optional and spec.kind == "array" and has_defaults and draw(st.booleans()):
            break
        if optional and spec.kind == "struct" and draw(st.booleans()):
            continue
        made[name] = draw(payloads(part, has_defaults))
    return list(made.values()) if spec.kind == "array" else made


def class_and_schema(spec: Spec) -> tuple[Any, Any]:
    cls = type_of(spec)
    return cls, json_schema(cls)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(pair=pairs(), data=st.data())
def test_payloads_when_the_schemas_have_no_gap_are_read_by_the_other_class(
    encoding: str, pair: tuple[Spec, Spec], data: st.DataObject
) -> None:
    (old_class, old), (new_class, new) = map(class_and_schema, pair)
    sides = [(pair[0], old_class, old, new_class, new), (pair[1], new_class, new, old_class, old)]
    for spec, writer_class, writer, reader_class, reader in sides:
        gaps = coverage_gaps(writer, reader, is_binary=encoding == "msgpack")
        event("gaps" if gaps else "the same" if writer == reader else "no gaps")
        if gaps or writer == reader or payloads(spec).is_empty:
            continue
        payload = json.dumps(data.draw(payloads(spec, encoding == "json"))).encode()
        written = decode_value("json", payload, writer_class)  # what was drawn is a payload of the writer
        if encoding == "msgpack":
            try:
                payload = encode_value("msgpack", written)
            except EncodeError:  # a datetime without an offset
                continue
        decode_value(encoding, payload, reader_class)
