"""eda.cli.graph_text: DOT as a parser of DOT reads it, and Cypher as a graph database executes it."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import ladybug
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda.cli.graph_events import GraphEvent
from eda.cli.graph_text import CYPHER, DOT, TextForm, cypher_text, dot_text
from eda.cli.output import safe
from support.cli.dot import parsed_dot, unquoted

HOSTILE = [
    'quote " here',
    "quote ' here",
    "back\\slash",
    "ends in \\",
    'ends in \\"',
    "\\u0027}) DETACH DELETE e //",
    "a\\\\u0027",
    "'}) DETACH DELETE e //",
    "*/ /* //",
    "new\nline\r\ttab",
    "\x00\x1b[31m\x7f\x9b",
    "Ünï–códe 😀 \u2028\u202e\ufeff",
    "</script><script>alert(1)</script>",
    "&lt; &#x27; &amp;",
    "\\N \\G \\l",
    "node",
    "graph",
    "a -> b; }",
    "<b>html</b>",
    "x" * 3000,
]


def event(id: str, cause: str = "", **fields: str) -> GraphEvent:
    known = {"type": "t", "aggregate": "a", "stream": "s", "place": "1", "time": "", "client": "c"}
    return GraphEvent(id=id, cause=cause, **known | fields)


def text_of(form: TextForm, *events: GraphEvent) -> str:
    return form.begin + "".join(map(form.event, events)) + form.end


# --- DOT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_dot_when_texts_are_hostile_has_these_nodes_and_edges_alone(text: str) -> None:
    graph = parsed_dot(text_of(DOT, event("first", text), event(text, "first", type=text, aggregate=text, client=text)))
    shown = safe(text, "utf-8")
    names = [unquoted(node.get_name()) for node in graph.get_nodes() if node.get_name() != "node"]
    assert sorted(names) == sorted(["first", shown])
    edges = [(unquoted(edge.get_source()), unquoted(edge.get_destination())) for edge in graph.get_edges()]
    assert edges == [(shown, "first"), ("first", shown)]


@given(st.text(min_size=1))
def test_dot_text_when_random_is_one_quoted_string_without_control_characters(text: str) -> None:
    quoted = dot_text(text)
    assert quoted.isprintable()
    assert unquoted(quoted) == safe(text, "utf-8")
    assert re.fullmatch(r'"(?:[^"\\]|\\.)*"', quoted)


def test_dot_when_an_event_has_no_id_is_named_by_its_place() -> None:
    graph = parsed_dot(text_of(DOT, event("", "x", place="7.3")))
    assert [unquoted(edge.get_destination()) for edge in graph.get_edges()] == ["s 7.3"]


def test_dot_when_there_are_no_events_is_an_empty_graph() -> None:
    assert parsed_dot(text_of(DOT)).get_edges() == []


# --- Cypher ----------------------------------------------------------------------------------------------------------


class Database:
    """A graph database in memory, into which statements are imported."""

    def __init__(self) -> None:
        self._connection = ladybug.Connection(ladybug.Database(":memory:"))
        fields = ", ".join(f"{name} STRING" for name in ("id", *NAMES))
        self._connection.execute(f"CREATE NODE TABLE Event({fields}, PRIMARY KEY(id))")
        self._connection.execute("CREATE REL TABLE CAUSED(FROM Event TO Event)")

    def load(self, text: str) -> None:
        for line in text.splitlines():
            if not line.startswith("//"):
                assert line.endswith(";")
                self._connection.execute(line)

    def rows(self, query: str) -> list[list[Any]]:
        result = self._connection.execute(query)
        assert not isinstance(result, list)
        found = []
        while result.has_next():
            found.append(result.get_next())
        return found


NAMES = ("type", "aggregate", "stream", "place", "time", "client")


def test_cypher_when_executed_has_every_hostile_text_as_it_was() -> None:
    texts = [text for text in HOSTILE if "\x00" not in text]  # this database keeps no NUL
    database = Database()
    for number, text in enumerate(texts):
        before = texts[number - 1] if number else ""
        database.load(text_of(CYPHER, event(text, before, type=text, aggregate=text, client=text)))
    found = database.rows("MATCH (e:Event) RETURN e.id, e.type, e.aggregate, e.client")
    assert sorted(found) == sorted([text] * 4 for text in texts)
    edges = database.rows("MATCH (c:Event)-[:CAUSED]->(e:Event) RETURN c.id, e.id")
    assert sorted(edges) == sorted([first, second] for first, second in pairwise(texts))


def test_cypher_when_imported_twice_has_nothing_twice() -> None:
    database = Database()
    text = text_of(CYPHER, event("b", "a"), event("a"), event("c", "gone"))
    database.load(text)
    database.load(text)
    assert sorted(database.rows("MATCH (e:Event) RETURN e.id, e.stream")) == [
        ["a", "s"], ["b", "s"], ["c", "s"], ["gone", None],
    ]  # fmt: skip
    edges = database.rows("MATCH (c:Event)-[:CAUSED]->(e:Event) RETURN c.id, e.id")
    assert sorted(edges) == [["a", "b"], ["gone", "c"]]


_LITERAL = re.compile(r"'((?:[^'\\]|\\['\\nu])*)'")


@given(st.text())
def test_cypher_text_when_random_is_strings_that_stand_for_it(text: str) -> None:
    written = cypher_text(text)
    assert "\n" not in written
    pieces = written.split(" + ") if " + " not in text else None
    if pieces is not None:
        assert all(_LITERAL.fullmatch(piece) for piece in pieces)
        inner = "".join(piece[1:-1] for piece in pieces)
        read = re.sub(
            r"\\(?:u([0-9A-F]{4})|(.))",
            lambda found: chr(int(found[1], 16)) if found[1] else {"n": "\n"}.get(found[2], found[2]),
            inner,
        )
        assert read == text


@given(st.text(alphabet="\\u0027'x"))
def test_cypher_text_when_escapes_are_replaced_before_parsing_ends_nowhere_else(text: str) -> None:
    # Some databases do this first, wherever they find it.
    assert not re.search(r"\\u", cypher_text(text))
