"""Links in the documents: each leads to a file and a heading of the repository, and README.md is the same on PyPI."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from readme_renderer import markdown

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for pattern in ("*.md", "docs/*.md", "bench/*.md") for path in ROOT.glob(pattern)
)

# A page is shown with its headings, an image as the bytes of its file.
PAGES = "https://github.com/eda-fast/eda/blob/main/"
IMAGES = "https://raw.githubusercontent.com/eda-fast/eda/main/"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def prose_of(document: str) -> str:
    return _FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))


def anchors_of(document: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(prose_of(document))}


def links_of(document: str) -> list[tuple[bool, str]]:
    """Return each link: whether it is an image, and its target."""
    return [(mark == "!", target) for mark, target in _LINK.findall(_CODE.sub("", prose_of(document)))]


def is_in_repository(document: str, anchor: str) -> bool:
    if not (ROOT / document).is_file():
        return False
    return not anchor or anchor in anchors_of(document)


def test_links_of_readme_when_followed_lead_to_what_the_repository_has() -> None:
    links = links_of("README.md")
    assert sum(is_image for is_image, _ in links) == 2
    assert len(links) > 8
    broken = []
    for is_image, target in links:
        base = IMAGES if is_image else PAGES
        document, _, anchor = target.removeprefix(base).partition("#")
        if target.startswith(base):
            broken += [] if is_in_repository(document, anchor) else [target]
        elif not target.startswith("https://") or "eda-fast/eda" in target:
            broken.append(target)  # PyPI doesn't know where a relative link leads
    assert broken == []


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "README.md"])
def test_links_of_a_document_when_followed_lead_to_what_the_repository_has(document: str) -> None:
    broken = []
    for _, target in links_of(document):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = (ROOT / document).parent / path if path else ROOT / document
        if not is_in_repository(other.resolve().relative_to(ROOT).as_posix(), anchor):
            broken.append(target)
    assert broken == []


def test_contents_of_the_guide_when_read_name_each_section_in_order() -> None:
    titles = _HEADING.findall(prose_of("docs/guide.md"))[1:]
    contents = re.findall(r"^ *\* \[(.+)\]\(#", prose_of("docs/guide.md"), re.MULTILINE)
    assert contents == titles


class Rendered(HTMLParser):
    """What a reader of PyPI's page sees, by the tags around it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {name: [] for name in ("h1", "h2", "pre", "th", "td", "li", "code")}
        self.targets: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.targets += [target for name in ("href", "src") if (target := values.get(name))]
        if tag in self.found:
            self._open.append(tag)
            self.found[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.found[tag][-1] += data


def test_readme_when_rendered_as_pypi_does_keeps_headings_table_code_and_image() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    html = markdown.render(text)
    assert html is not None
    rendered = Rendered(html)
    found = rendered.found
    assert [*found["h1"], *found["h2"]] == _HEADING.findall(prose_of("README.md"))
    # Indented blocks are the commands, fenced ones the examples and their output.
    indented = re.findall(r"(?:^    .+\n)+", _FENCE.sub("", text), re.MULTILINE)
    commands = [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in indented]
    assert sorted(found["pre"]) == sorted([*commands, *(code for _, code in _FENCE.findall(text))])
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")]
    assert [*found["th"], *found["td"]] == [
        _LINK.sub(lambda link: link[0][1:].partition("]")[0], cell).replace("`", "") for cell in cells
    ]
    assert len(found["li"]) == len(re.findall(r"^\* ", prose_of("README.md"), re.MULTILINE))
    assert {target for _, target in links_of("README.md")} <= set(rendered.targets)
    assert [target for target in rendered.targets if not target.startswith(("https://", "#"))] == []
    assert "**" not in "".join(found["li"])
