"""eda.cli.blocks: lines of files and pipes, in blocks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from eda.cli import blocks
from eda.cli.blocks import LineBlocks


async def read_pipe(pieces: Iterable[bytes]) -> list[tuple[int, bytes, bool]]:
    """Return the blocks of a pipe into which the pieces are written one by one."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for piece in pieces:
                pipe.write(piece)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        source = LineBlocks(reading)
        assert source.size is None
        return [block async for block in source.blocks()]
    finally:
        os.close(reading)
        thread.join()


def lines_of(found: list[tuple[int, bytes, bool]]) -> list[tuple[int, bytes]]:
    """Return all lines with their numbers."""
    return [(number, line) for first, lines, _ in found for number, line in enumerate(lines.split(b"\n")[:-1], first)]


async def test_lines_when_a_file_is_read_have_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = [str(n).encode() * (n % 90) for n in range(20_000)]
    path.write_bytes(b"\n".join(lines))  # the last line has no end
    fd = os.open(path, os.O_RDONLY)
    try:
        source = LineBlocks(fd)
        found = [block async for block in source.blocks()]
    finally:
        os.close(fd)
    assert lines_of(found) == list(enumerate(lines, 1))
    assert source.size == source.n_bytes == path.stat().st_size
    assert max(len(block) for _, block, _ in found) < 2 * blocks.BLOCK


async def test_lines_when_a_pipe_gives_them_in_pieces_are_whole() -> None:
    content = b"one\n\ntwo\nthree and more\nfour"
    for size in (1, 2, 3, 7, 100):
        found = await read_pipe(content[at : at + size] for at in range(0, len(content), size))
        assert lines_of(found) == list(enumerate(content.split(b"\n"), 1))


async def test_blocks_when_nothing_comes_are_none() -> None:
    assert await read_pipe([]) == []


async def test_line_when_too_long_is_left_out_and_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_LINE", 1000)
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(blocks, "HELD", 64)
    found = await read_pipe([b"a\n", b"x" * 5000, b"y\nb\nc"])
    assert [(number, lines) for number, lines, is_long in found if not is_long] == [
        (1, b"a\n"),
        (3, b"b\n"),
        (4, b"c\n"),
    ]
    assert [number for number, _, is_long in found if is_long] == [2]
    found = await read_pipe([b"a\n", b"x" * 5000])
    assert [(number, is_long) for number, _, is_long in found] == [(1, False), (2, True)]


async def test_pipe_when_its_writer_is_far_ahead_is_read_no_further_than_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "HELD", 1 << 16)
    reading, writing = os.pipe()
    n_written = 0

    def write() -> None:
        nonlocal n_written
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for _ in range(100):
                n_written += pipe.write(b"x" * 16_383 + b"\n")

    thread = threading.Thread(target=write)
    thread.start()
    source = LineBlocks(reading)
    reader = source.blocks()
    n_read = len((await anext(reader))[1])
    before = -1
    while before != n_written:  # until the writer is stopped
        before = n_written
        await asyncio.sleep(0.05)
    assert n_written < 100 * 16_384
    async for _, lines, _ in reader:
        n_read += len(lines)
    thread.join()
    os.close(reading)
    assert n_read == n_written == 100 * 16_384


async def test_reading_when_it_fails_raises() -> None:
    fd = os.open(".", os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            [block async for block in LineBlocks(fd).blocks()]
    finally:
        os.close(fd)
