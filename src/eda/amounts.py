"""How people read durations and sizes, for several wings."""

from __future__ import annotations

__all__ = ["duration_text", "size_text"]


def duration_text(seconds: float) -> str:
    """Return a duration as people read it, in one unit: 0.3 ms, 90 s, 7.6 min, 24 h, 4 d. A negative one is 0 s.

    It has two digits that count, or all digits of a whole number.
    """
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{_number(seconds * 1000)} ms"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{_number(seconds / size)} {unit}"
    return f"{_number(seconds / 86400)} d"


def size_text(n_bytes: float) -> str:
    """Return a number of bytes as people read it, in decimal units, with three digits that count: 512 B, 3.45 MB."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if round(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB" if value < 100 else f"{value:,.0f} TB"


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 9.95 else f"{value:,.0f}"
