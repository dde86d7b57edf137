"""eda.schemas.coverage: for each kind of change, whether new readers or old readers break."""

from __future__ import annotations

from typing import Any

import pytest

from eda.errors import ConfigError
from eda.schemas.coverage import coverage_gaps

TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
NUMBER = {"type": "number"}
NULL = {"type": "null"}
BYTES = {"type": "string", "contentEncoding": "base64", "minLength": 8, "maxLength": 8}
COMPUTED = {"type": "integer", "readOnly": True, "x-eda-computed": True}
RED = {"enum": ["red"]}
RED_BLUE = {"enum": ["red", "blue"]}


def fields(required: str = "", /, closed: bool = False, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required.split()}
    return {**schema, "additionalProperties": False} if closed else schema


def variant(tag: str, **properties: Any) -> dict[str, Any]:
    return fields("type", type={"enum": [tag]}, **properties)


def pair(*items: Any, least: int | None = None, rest: Any = None) -> dict[str, Any]:
    schema = {"type": "array", "prefixItems": list(items), "minItems": len(items) if least is None else least}
    return schema if rest is None else {**schema, "items": rest, "maxItems": len(items)}


def either(*schemas: Any, **beside: Any) -> dict[str, Any]:
    return {"anyOf": list(schemas), **beside}


A, B = {**TEXT, "title": "a"}, {**TEXT, "title": "b"}
AB = variant("b")
INDIRECT = {"$ref": "#/$defs/N", "$defs": {"N": WHOLE}}


def tree(leaf: Any) -> dict[str, Any]:
    """Return the schema of a class that contains itself."""
    node = fields("value", value=leaf, kids={"type": "array", "items": {"$ref": "#/$defs/Node"}})
    return {"$ref": "#/$defs/Node", "$defs": {"Node": node}}


# What changes, the old and the new schema, the paths where new readers break, and those where old readers break.
CHANGES: list[tuple[str, Any, Any, list[str], list[str]]] = [
    ("nothing", fields("a", a=TEXT), fields("a", a=TEXT), [], []),
    ("annotations", {**WHOLE, "title": "A", "default": 1}, {**WHOLE, "description": "B", "deprecated": True}, [], []),
    ("an optional field is added", fields("a", a=TEXT), fields("a", a=TEXT, b=TEXT), [], []),
    ("a required field is added", fields("a", a=TEXT), fields("a b", a=TEXT, b=TEXT), [".b"], []),
    ("an optional field is removed", fields("a", a=TEXT, b=TEXT), fields("a", a=TEXT), [], []),
    ("a required field is removed", fields("a b", a=TEXT, b=TEXT), fields("a", a=TEXT), [], [".b"]),
    ("a field becomes optional", fields("a", a=TEXT), fields("", a=TEXT), [], [".a"]),
    ("a field becomes required", fields("", a=TEXT), fields("a", a=TEXT), [".a"], []),
    ("a field is renamed", fields("a", a=TEXT), fields("b", b=TEXT), [".b"], [".a"]),
    ("a field is added, readers are strict", fields("", True), fields("", True, b=TEXT), [], [".b"]),
    ("a field is removed, readers are strict", fields("", True, b=TEXT), fields("", True), [".b"], []),
    ("readers become strict", fields("a", a=TEXT), fields("a", True, a=TEXT), [], []),
    ("order of fields", fields("a b", a=TEXT, b=WHOLE), fields("b a", b=WHOLE, a=TEXT), [], []),
    ("a type changes", fields("a", a=TEXT), fields("a", a=WHOLE), [".a"], [".a"]),
    ("a number is widened", WHOLE, NUMBER, [], [""]),
    ("a number is narrowed", NUMBER, WHOLE, [""], []),
    ("a value may be null", TEXT, either(TEXT, NULL), [], [""]),
    ("the same, as a list of types", TEXT, {"type": ["string", "null"]}, [], [""]),
    ("a union in another order", either(TEXT, NULL), either(NULL, TEXT), [], []),
    ("oneOf instead of anyOf", either(TEXT, NULL), {"oneOf": [TEXT, NULL]}, [], []),
    ("any value", TEXT, {}, [], [""]),
    ("true means any value", {}, True, [], []),
    ("an enum gets a value", RED, RED_BLUE, [], [""]),
    ("an enum loses a value", RED_BLUE, RED, [""], []),
    ("const is an enum of one", RED, {"const": "red"}, [], []),
    ("an enum becomes free", RED, TEXT, [], [""]),
    ("1 is not true", {"enum": [1]}, {"enum": [True]}, [""], [""]),
    ("boolean is an enum of two", {"type": "boolean"}, {"enum": [False, True]}, [], []),
    ("null is an enum of one", NULL, {"enum": [None]}, [], []),
    ("an enum over a union", {"enum": ["red", 1]}, either(TEXT, WHOLE), [], [""]),
    ("an enum within limits", {"enum": [1, 4]}, {**WHOLE, "minimum": 1, "multipleOf": 1}, [], [""]),
    ("an enum beyond limits", {"enum": [0]}, {**WHOLE, "minimum": 1}, [""], [""]),
    ("minimum is raised", {**WHOLE, "minimum": 1}, {**WHOLE, "minimum": 2}, [""], []),
    ("maximum is raised", {**WHOLE, "maximum": 1}, {**WHOLE, "maximum": 2}, [], [""]),
    ("an exclusive limit of integers", {**WHOLE, "minimum": 1}, {**WHOLE, "exclusiveMinimum": 0}, [], []),
    ("an exclusive limit of numbers", {**NUMBER, "minimum": 0}, {**NUMBER, "exclusiveMinimum": 0}, [""], []),
    ("multipleOf", {**WHOLE, "multipleOf": 4}, {**WHOLE, "multipleOf": 2}, [], [""]),
    ("multipleOf with fractions", {**NUMBER, "multipleOf": 0.3}, {**NUMBER, "multipleOf": 0.1}, [], [""]),
    ("maxLength is lowered", {**TEXT, "maxLength": 9}, {**TEXT, "maxLength": 8}, [""], []),
    ("minLength is lowered", {**TEXT, "minLength": 2}, {**TEXT, "minLength": 1}, [], [""]),
    ("pattern is added", TEXT, {**TEXT, "pattern": "^a"}, [""], []),
    ("pattern changes", {**TEXT, "pattern": "a"}, {**TEXT, "pattern": "b"}, [""], [""]),
    ("format is added", TEXT, {**TEXT, "format": "uuid"}, [""], []),
    ("offsets are demanded", {**TEXT, "format": "iso-date-time"}, {**TEXT, "format": "date-time"}, [""], []),
    ("text becomes bytes", TEXT, {**TEXT, "contentEncoding": "base64"}, [""], []),
    ("bytes get shorter", {**BYTES, "x-eda-maxBytes": 5}, {**BYTES, "x-eda-maxBytes": 4}, [""], []),
    ("bytes get longer", {**BYTES, "x-eda-minBytes": 4}, {**BYTES, "x-eda-minBytes": 5}, [""], []),
    ("a number becomes a Decimal", WHOLE, {**TEXT, "format": "decimal"}, [], [""]),
    ("a text becomes a Decimal", TEXT, {**TEXT, "format": "decimal"}, [""], []),
    ("a computed field", fields("a", a=TEXT), fields("a", a=TEXT, b=COMPUTED), [], []),
    ("a computed field changes", fields("", b=COMPUTED), fields("", b={**COMPUTED, "type": "string"}), [], []),
    ("a computed field is read", fields("", b=COMPUTED), fields("", b=TEXT), [".b"], []),
    ("a computed field is refused", fields("", b=COMPUTED), fields("", True), [".b"], []),
    ("items change", {"type": "array", "items": WHOLE}, {"type": "array", "items": NUMBER}, [], ["[]"]),
    ("a list becomes a set", {"type": "array"}, {"type": "array", "uniqueItems": True}, [""], []),
    ("minItems", {"type": "array", "minItems": 1}, {"type": "array"}, [], [""]),
    ("a tuple gets an item", pair(TEXT, rest=False), pair(TEXT, WHOLE, rest=False), [""], [""]),
    ("an array gets an optional item", pair(TEXT), pair(TEXT, WHOLE, least=1), [], []),
    ("an array gets a required item", pair(TEXT), pair(TEXT, WHOLE), [""], []),
    ("an item changes", pair(TEXT, WHOLE), pair(TEXT, NUMBER), [], ["[1]"]),
    ("items swap", pair(A, B), pair(B, A), ["[0]", "[1]"], ["[0]", "[1]"]),
    ("an item gets another name", pair(A), pair(B), [], []),
    ("a tuple becomes a list", pair(WHOLE, WHOLE, rest=False), {"type": "array", "items": WHOLE}, [], [""] * 2),
    ("values of a map", {"type": "object", "additionalProperties": WHOLE}, {"type": "object"}, [], [".*"]),
    ("a map becomes a class", {"type": "object"}, fields("", a=TEXT), [".a"], []),
    ("keys of a map", {"type": "object"}, {"type": "object", "propertyNames": {"pattern": "^[0-9]+$"}}, [".*"], []),
    ("a variant is added", either(variant("a")), either(variant("a"), variant("b")), [], [".type"]),
    ("a variant changes", either(variant("a", n=WHOLE), AB), either(AB, variant("a", n=TEXT)), [".n"], [".n"]),
    ("a variant is renamed", variant("a"), variant("b"), [".type"], [".type"]),
    ("in a tree", tree(WHOLE), tree(NUMBER), [], [".value"]),
    ("a tree in other words", tree(WHOLE), {**tree(WHOLE)["$defs"]["Node"], **tree(WHOLE)}, [], []),
    ("a reference with a default", {**INDIRECT, "default": 1}, {"allOf": [WHOLE]}, [], []),
    ("a limit beside a reference", {**INDIRECT, "minimum": 1}, {**WHOLE, "minimum": 1}, [], []),
    ("an unknown keyword is added", TEXT, {**TEXT, "not": RED}, [""], []),
    ("an unknown keyword changes", {**TEXT, "not": RED}, {**TEXT, "not": RED_BLUE}, [""], [""]),
    ("an unknown keyword stays", {**TEXT, "not": RED}, {**TEXT, "not": RED, "title": "A"}, [], []),
    ("an extension of others", TEXT, {**TEXT, "x-color": "red"}, [], []),
    ("allOf of several", {**TEXT, "allOf": [RED, TEXT]}, {**TEXT, "allOf": [RED_BLUE, TEXT]}, [""], [""]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "new_readers", "old_readers"), [row[1:] for row in CHANGES], ids=[r[0] for r in CHANGES]
)
def test_change_when_compared_breaks_these_readers(
    old: Any, new: Any, new_readers: list[str], old_readers: list[str]
) -> None:
    assert [gap.path for gap in coverage_gaps(old, new)] == new_readers
    assert [gap.path for gap in coverage_gaps(new, old)] == old_readers


@pytest.mark.parametrize("special", [{"format": "date-time"}, {"contentEncoding": "base64"}, {"pattern": "^-?[0-9]+$"}])
def test_text_when_messagepack_has_a_type_for_it_is_not_that_type(special: dict[str, str]) -> None:
    special = {**TEXT, **special}
    assert coverage_gaps(special, TEXT) == []
    assert coverage_gaps(special, TEXT, is_binary=True) != []
    assert coverage_gaps({**TEXT, "format": "uuid"}, TEXT, is_binary=True) == []


def test_keys_when_messagepack_has_them_as_numbers_are_no_texts() -> None:
    numbers = {"type": "object", "additionalProperties": WHOLE, "propertyNames": {"pattern": "^-?[0-9]+$"}}
    texts = {"type": "object", "additionalProperties": WHOLE}
    assert coverage_gaps(numbers, texts) == []
    (gap,) = coverage_gaps(numbers, texts, is_binary=True)
    assert gap.path == ".*"
    assert "which MessagePack does not write as a text, but {reader} expects a text" in gap.change
    assert coverage_gaps(numbers, numbers | {"additionalProperties": NUMBER}, is_binary=True) == []
    fractions = {**numbers, "propertyNames": {"pattern": "^-?[0-9][0-9.eE+-]*$"}}
    assert coverage_gaps(numbers, fractions, is_binary=True) == []
    assert coverage_gaps(fractions, numbers) != []


def test_recursive_types_when_a_union_takes_the_wrong_branch_first_are_found_not_covered() -> None:
    def graph(leaf: Any) -> dict[str, Any]:
        a = fields("", b={"$ref": "#/$defs/B"})
        b = fields("", a=either({"$ref": "#/$defs/A"}, NULL), leaf=leaf)
        return {**fields("", x={"$ref": "#/$defs/A"}, y={"$ref": "#/$defs/B"}), "$defs": {"A": a, "B": b}}

    assert {gap.path for gap in coverage_gaps(graph(NUMBER), graph(WHOLE))} == {".x.b.leaf", ".y.leaf"}
    assert coverage_gaps(graph(WHOLE), graph(NUMBER)) == []


def test_recursive_types_when_all_contain_each_other_are_compared_in_little_time() -> None:
    def clique(leaf: Any) -> dict[str, Any]:
        names = [f"T{number}" for number in range(12)]
        each = {name: {"$ref": f"#/$defs/{name}"} for name in names}
        return {"$ref": "#/$defs/T0", "$defs": {name: fields("", **each, leaf=leaf) for name in names}}

    assert coverage_gaps(clique(NUMBER), clique(WHOLE))[0].path.endswith(".leaf")
    assert coverage_gaps(clique(WHOLE), clique(NUMBER)) == []


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/$defs/A"}, "leads to nothing"),
        ({"$ref": "other.json"}, "leads out of the schema"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "leads to itself"),
        ({"anyOf": [7]}, "not a JSON Schema: 7"),
    ],
)
def test_schema_when_it_is_wrong_is_refused(schema: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        coverage_gaps(schema, TEXT)
