"""Lines of JSON as a terminal may show them."""

from __future__ import annotations

import json
import sys

__all__ = ["printable_lines"]


def printable_lines(lines: bytes) -> bytes:
    """Return lines of JSON so that a terminal may show them, if standard output is one."""
    if lines.isascii() or not sys.stdout.isatty():
        return lines
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in lines.decode()).encode()


def _escaped(char: str) -> str:
    """Return a character as JSON escapes it. In JSON, only texts have characters that are not printable."""
    return json.dumps(char)[1:-1]
