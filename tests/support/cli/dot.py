"""Graphs in DOT, as a parser of DOT reads them."""

from __future__ import annotations

import re
import warnings

import pydot

__all__ = ["parsed_dot", "unquoted"]


def parsed_dot(text: str) -> pydot.Dot:
    """Return the one graph in the text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pydot calls pyparsing by its older names
        graphs = pydot.graph_from_dot_data(text)
    assert graphs is not None
    assert len(graphs) == 1
    return graphs[0]


def unquoted(text: str) -> str:
    """Return the text that a quoted string of DOT stands for, if every backslash in it is doubled."""
    assert text[0] == text[-1] == '"'
    return re.sub(r'\\(["\\])', r"\1", text[1:-1])
