"""README.md and the guides: every Python block runs as it stands and prints what the text block below it says."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

import eda

ROOT = Path(__file__).resolve().parents[3]
GUIDES = (
    "README.md",
    "docs/guide.md",
    "docs/event-sourcing.md",
    "docs/read-models.md",
    "docs/outbox.md",
    "docs/health.md",
    "docs/telemetry.md",
)
DOCUMENTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in GUIDES}
DEADLINE_S = 30

# The documents say that this is around the shorter examples.
AROUND = """\
import asyncio
import eda
{more}
async def main():
    async with eda.connect(client="example") as conn:
{block}

asyncio.run(main())
"""

MORE_IMPORTS = {"docs/read-models.md": "import sqlite3\nimport eda.sql\n"}  # these, too

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    code: str
    expected: str | None

    @property
    def module(self) -> str:
        """The name of the module that the block is, for the other blocks of its document; else empty."""
        named = re.match(r"# (\w+)\.py\n", self.code)
        return named[1] if named else ""

    @property
    def program(self) -> str:
        if self.module or "eda.run(" in self.code or "asyncio.run(" in self.code:
            return self.code
        more = MORE_IMPORTS.get(self.document, "")
        more += "".join(f"from {each.module} import *\n" for each in modules_of(self.document))
        return AROUND.format(block=textwrap.indent(self.code, " " * 8), more=more)

    @property
    def waits_for_ever(self) -> bool:
        return "sub.wait()" in self.code


def read_blocks(document: str) -> list[Block]:
    text = DOCUMENTS[document]
    fences = list(_FENCE.finditer(text))
    blocks = []
    for at, fence in enumerate(fences):
        if fence[1] == "python":
            following = fences[at + 1] if at + 1 < len(fences) else None
            expected = following[2] if following is not None and following[1] == "text" else None
            blocks.append(Block(document, text.count("\n", 0, fence.start()) + 1, fence[2], expected))
    return blocks


def modules_of(document: str) -> list[Block]:
    return [block for block in read_blocks(document) if block.module]


BLOCKS = [block for document in DOCUMENTS for block in read_blocks(document)]


@pytest.mark.parametrize(
    ("document", "least"),
    [
        ("README.md", 2),
        ("docs/guide.md", 18),
        ("docs/event-sourcing.md", 8),
        ("docs/read-models.md", 6),
        ("docs/outbox.md", 1),
        ("docs/telemetry.md", 2),
    ],
)
def test_document_when_read_has_blocks_that_all_say_what_they_print(document: str, least: int) -> None:
    text = DOCUMENTS[document]
    blocks = [block for block in BLOCKS if block.document == document]
    assert len(blocks) >= least
    assert text.count("```") == 2 * len(_FENCE.findall(text))
    assert {language for language, _ in _FENCE.findall(text)} == {"python", "text"}
    assert [block.line for block in blocks if not block.expected] == []


@pytest.mark.parametrize("document", sorted({block.document for block in BLOCKS if block.program != block.code}))
def test_document_when_read_says_what_is_around_its_shorter_examples(document: str) -> None:
    assert 'belongs inside `async with eda.connect(client="example") as conn:`' in " ".join(DOCUMENTS[document].split())


def test_readme_when_opened_begins_with_the_two_commands() -> None:
    head = DOCUMENTS["README.md"][:300]
    assert re.search(r"^ +make demo ", head, re.MULTILINE)
    assert re.search(r"^ +make test ", head, re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.document}-line-{block.line}")
async def test_block_when_run_prints_what_its_document_says(
    block: Block, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert block.expected is not None
    needs_postgres = "DATABASE_URL" in block.code
    env = {"DATABASE_URL": request.getfixturevalue("postgres")} if needs_postgres else {}
    file = tmp_path / "example.py"
    file.write_text(block.program, encoding="utf-8")
    for each in modules_of(block.document):
        (tmp_path / f"{each.module}.py").write_text(each.code, encoding="utf-8")
    async with eda.EmbeddedServer() as server, asyncio.timeout(DEADLINE_S):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-W", "error", str(file)),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env, "EDA_URL": server.url, "PYTHONIOENCODING": "utf-8"},
        )
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            errors = asyncio.ensure_future(process.stderr.read())
            printed = b""
            while printed.count(b"\n") < block.expected.count("\n") and (line := await process.stdout.readline()):
                printed += line
            if block.waits_for_ever:
                assert process.returncode is None, (await errors).decode()
                interrupt(process)
            printed += await process.stdout.read()
            code = await process.wait()
            told = (await errors).decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert printed.decode().replace("\r\n", "\n") == block.expected, told
    if block.waits_for_ever:
        assert code == 130 or sys.platform == "win32", told
        assert "Traceback" not in told
    else:
        assert code == 0, told
    assert "Warning" not in told


def interrupt(process: asyncio.subprocess.Process) -> None:
    """End it as Ctrl-C does, where that can be done from here."""
    if sys.platform == "win32":
        process.kill()
    else:
        process.send_signal(signal.SIGINT)
