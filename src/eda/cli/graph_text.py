"""A graph as text: DOT for Graphviz, or Cypher for a graph database. Each event is written when it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eda.cli.graph_events import GraphEvent
from eda.cli.output import safe

__all__ = ["CYPHER", "DOT", "TextForm", "cypher_text", "dot_text"]


@dataclass(frozen=True)
class TextForm:
    """How a graph is written: the lines before the events, those of an event, and those after the events."""

    begin: str
    event: Callable[[GraphEvent], str]
    end: str


# --- DOT -------------------------------------------------------------------------------------------------------------


def dot_text(text: str) -> str:
    """Return a text as a quoted string of DOT, which names a node. Control characters are shown as escapes."""
    return '"' + safe(text, "utf-8").replace("\\", "\\\\").replace('"', '\\"') + '"'


def _dot_label(*lines: str) -> str:
    """Return a label of several lines. Graphviz reads entities such as `&lt;` in labels."""
    return '"' + "\\n".join(dot_text(line)[1:-1].replace("&", "&amp;") for line in lines if line) + '"'


def _dot_event(event: GraphEvent) -> str:
    name = dot_text(event.key)
    label = _dot_label(event.type or event.key, event.aggregate, f"{event.stream} {event.place}")
    node = f"  {name} [label={label}, tooltip={_dot_label(event.key, event.time)}];\n"
    return node + (f"  {dot_text(event.cause)} -> {name};\n" if event.cause else "")


DOT = TextForm(
    begin='digraph causes {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname="sans-serif"];\n',
    event=_dot_event,
    end="}\n",
)


# --- Cypher ----------------------------------------------------------------------------------------------------------


def cypher_text(text: str) -> str:
    r"""Return a text as an expression of Cypher.

    Some databases replace `\uXXXX` before they parse, even after an escaped backslash. So no backslash of the text is
    directly followed by a `u`: the string is divided there.
    """
    pieces = []
    before = ""
    for char in text:
        if before == "\\" and char in "uU":
            pieces.append("' + '")
        before = char
        if char in "\\'":
            pieces.append("\\" + char)
        elif char == "\n":
            pieces.append("\\n")
        elif char.isprintable() or ord(char) > 0xFFFF:
            pieces.append(char)
        else:
            pieces.append(f"\\u{ord(char):04X}")
    return "'" + "".join(pieces) + "'"


def _cypher_event(event: GraphEvent) -> str:
    node = f"{{id: {cypher_text(event.key)}}}"
    names = ("type", "aggregate", "stream", "place", "time", "client")
    values = ", ".join(f"e.{name} = {cypher_text(getattr(event, name))}" for name in names)
    text = f"MERGE (e:Event {node}) SET {values};\n"
    if event.cause:
        cause = f"{{id: {cypher_text(event.cause)}}}"
        text += f"MERGE (:Event {cause});\n"
        text += f"MATCH (c:Event {cause}), (e:Event {node}) MERGE (c)-[:CAUSED]->(e);\n"
    return text


CYPHER = TextForm(
    begin="// The events of streams, and which of them caused which. An index on :Event(id) makes the import fast.\n",
    event=_cypher_event,
    end="",
)
