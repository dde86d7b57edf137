"""A graph as one HTML page that needs no network and no other file.

Every text of an event is escaped. The page's policy forbids all scripts and styles but its own, and all loading.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from eda.cli.graph_events import GraphEvent
from eda.cli.graph_layout import Box, laid_out
from eda.cli.graph_page import SCRIPT, STYLE
from eda.cli.output import safe

__all__ = ["html_page"]

WIDTH, HEIGHT = 210, 40  # of a box, in pixels
GAP_X, GAP_Y = 44, 12  # between two boxes
MARGIN = 16
MAX_CHARS = 28  # of a line in a box; the details have the whole text
HUES = (210, 25, 130, 280, 350, 50, 175, 315, 95, 240, 5, 155)  # one for each of the most frequent types


def html_page(events: Sequence[GraphEvent], streams: Sequence[str], n_all: int) -> Iterator[str]:
    """Yield the pieces of the page. `n_all`: how many events were chosen, of which `events` are the newest."""
    boxes, n_columns, n_rows = laid_out(events)
    types = [name for name, _ in Counter(event.type for event in events).most_common()]
    hue_of = {name: HUES[number % len(HUES)] for number, name in enumerate(types)}
    shown = f"{len(events):,} events" if n_all == len(events) else f"the newest {len(events):,} of {n_all:,} events"
    title = _text(f"Causes of events: {', '.join(streams)}")
    n_caused = sum(box.parent is not None for box in boxes)
    yield f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{_digest(SCRIPT)}'; \
style-src '{_digest(STYLE)}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{_text(shown)}, {n_caused:,} with a known cause. Causes are on the left, effects on the right.
Click an event to see its causes and effects.</p>
<input id="find" type="search" placeholder="Find by id, type, aggregate or client" aria-label="Find">
<span id="found"></span>
<button id="out" title="Smaller">−</button><button id="in" title="Larger">+</button>
</header>
<ul id="types">
"""
    counts = Counter(event.type for event in events)
    for name in types:
        yield (
            f'<li><label><input type="checkbox" checked data-type="{_text(name)}"><svg width="12" height="12">'
            f'<rect width="12" height="12" fill="hsl({hue_of[name]},65%,55%)"/></svg> {_text(name or "(no type)")}'
            f"</label> {counts[name]:,}</li>\n"
        )
    width = 2 * MARGIN + max(n_columns, 1) * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + max(n_rows, 1) * (HEIGHT + GAP_Y) - GAP_Y
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    yield f'</ul>\n<main>\n<svg id="graph" {size} role="img">\n'
    for number, box in enumerate(boxes):
        if box.parent is not None:
            yield _line(number, box, boxes[box.parent])
    for number, box in enumerate(boxes):
        yield _box(number, box, hue_of, has_streams=len(streams) > 1)
    yield "</svg>\n</main>\n"
    yield '<aside id="details" hidden><button id="close" title="Close">×</button><dl></dl></aside>\n'
    yield f'<script type="application/json" id="data">{_data(boxes)}</script>\n<script>{SCRIPT}</script>\n'
    yield "</body>\n</html>\n"


def _at(box: Box) -> tuple[int, int]:
    return MARGIN + box.column * (WIDTH + GAP_X), MARGIN + box.row * (HEIGHT + GAP_Y)


def _line(number: int, box: Box, cause: Box) -> str:
    (x, y), (from_x, from_y) = _at(box), _at(cause)
    from_x, from_y, y = from_x + WIDTH, from_y + HEIGHT // 2, y + HEIGHT // 2
    middle = (from_x + x) // 2
    return f'<path data-n="{number}" d="M{from_x} {from_y}C{middle} {from_y} {middle} {y} {x} {y}"/>\n'


def _box(number: int, box: Box, hue_of: dict[str, int], *, has_streams: bool) -> str:
    x, y = _at(box)
    event = box.event
    if event is None:
        kind, fill, upper, lower = ' class="gone"', "none", "cause that is not shown", box.name
    else:
        kind, fill, upper = "", f"hsl({hue_of[event.type]},65%,55%)", event.type or "(no type)"
        place = f"{event.stream} {event.place}" if has_streams else event.place
        lower = " · ".join(text for text in (event.aggregate, place) if text)
    return (
        f'<g data-n="{number}"{kind} tabindex="0" transform="translate({x} {y})">'
        f'<rect class="box" width="{WIDTH}" height="{HEIGHT}" rx="5"/><rect width="5" height="{HEIGHT}" fill="{fill}"/>'
        f'<text x="13" y="17">{_short(upper)}</text><text x="13" y="32" class="low">{_short(lower)}</text>'
        f"<title>{_text(box.name)}</title></g>\n"
    )


def _data(boxes: Sequence[Box]) -> str:
    """Return the boxes for the page's script. Nothing in it can end the script element."""
    fields = [
        {"parent": box.parent}
        | (
            {
                "id": safe(box.name, "utf-8"),
                "note": "this event is not shown: it is in another stream or range, or is gone",
            }
            if box.event is None
            else {name: safe(getattr(box.event, name), "utf-8") for name in GraphEvent.__slots__}
        )
        for box in boxes
    ]
    text = json.dumps(fields, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _text(text: str) -> str:
    """Return a text for HTML, in an element or in quotes. Control characters are shown as escapes."""
    return html.escape(safe(text, "utf-8"))


def _short(text: str) -> str:
    text = safe(text, "utf-8")
    return html.escape(text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 1]}…")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
