"""eda.cli.graph_html: one page, safe whatever the events say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda.cli.graph_events import GraphEvent
from eda.cli.graph_html import html_page
from eda.cli.graph_page import SCRIPT, STYLE

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--",
    "]]>",
    "</title></style></svg>",
    "&lt;script&gt;",
    "\x1b[31m\x00\u2028\u202e",
]


def event(id: str, cause: str = "", text: str = "t") -> GraphEvent:
    return GraphEvent(id, cause, text, text, "s", "1", "2026-11-30T10:00:00.000Z", text)


class Page(HTMLParser):
    """What a browser finds in the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in == "style":
            self.styles.append(data)
        else:
            self.texts.append(data)


def page_of(*events: GraphEvent, streams: tuple[str, ...] = ("s",)) -> tuple[str, Page]:
    text = "".join(html_page(events, streams, len(events)))
    return text, Page(text)


TAGS = set(page_of(event("a"), event("b", "a"), event("c", "gone"))[1].tags)


@pytest.mark.parametrize("text", HOSTILE)
def test_page_when_texts_are_hostile_has_no_other_elements_and_scripts(text: str) -> None:
    raw, page = page_of(event(text, "a", text), event("b", text, text), streams=(text, "other"))
    assert {*page.tags} <= TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "style")]
    data, script = page.scripts
    assert script == SCRIPT
    shown = {field for box in json.loads(data) for field in box.values()}
    assert any(str(field).startswith(text[:3]) or not text[0].isprintable() for field in shown)
    assert raw.replace("\n", "").isprintable()


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8)), max_size=6))
def test_page_when_texts_are_random_has_no_other_elements_and_scripts(texts: list[tuple[str, str, str]]) -> None:
    _, page = page_of(*(event(*each) for each in texts))
    assert {*page.tags} <= TAGS
    assert page.scripts[1:] == [SCRIPT]
    json.loads(page.scripts[0])


def test_page_when_opened_loads_nothing_and_allows_its_own_script_and_style_only() -> None:
    raw, page = page_of(event("a"), event("b", "a"))
    (policy,) = [value for _, value in page.attributes if value and value.startswith("default-src")]

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy == f"default-src 'none'; script-src {digest(SCRIPT)}; style-src {digest(STYLE)}"
    assert page.styles == [STYLE]
    assert not re.search(r"https?:|//[a-z]|@import|url\(", raw)


def test_page_when_events_are_left_out_says_so() -> None:
    text = "".join(html_page([event("a")], ["orders"], 5000))
    assert "the newest 1 of 5,000 events" in text


def test_page_when_there_are_no_events_is_whole() -> None:
    raw, page = page_of()
    assert "0 events" in raw
    assert json.loads(page.scripts[0]) == []


def test_page_when_drawn_connects_causes_and_effects() -> None:
    raw, page = page_of(event("a"), event("b", "a"), event("c", "gone"))
    assert raw.count("<path ") == 2
    assert raw.count('class="gone"') == 1
    assert [box["parent"] for box in json.loads(page.scripts[0])] == [None, 0, 3, None]
