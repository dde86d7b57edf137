"""The report of a run: its figures by name, and as a table."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Table

from eda._version import __version__
from eda.cli.sides import Figures
from eda.cli.work import Work

__all__ = ["Titles", "print_report", "python_name", "report_of"]


@dataclass(frozen=True)
class Titles:
    """A command's texts: the line above the table, with `{events}` in it, and the line for a check that passed."""

    table: str
    passed: str


def python_name() -> str:
    """Return the interpreter and the event loop that both sides use."""
    loop = "uvloop" if find_spec("uvloop") is not None else "asyncio"
    return f"{platform.python_implementation()} {platform.python_version()} with {loop}"


def report_of(work: Work, figures: Figures, asked: dict[str, Any]) -> dict[str, Any]:
    """Return all figures that are printed. `asked` has the settings that the user chose."""
    published, handled = figures.published, figures.handled
    n_events = sum(published["published"])

    def side(result: dict[str, Any], n: int) -> dict[str, Any]:
        per_s = n / max(result["seconds"], 1e-9)
        memory = result["peak_memory"]
        return {
            "seconds": round(result["seconds"], 6),
            "events_per_s": round(per_s, 1),
            **({"mb_per_s": round(per_s * work.size / 1e6, 3)} if work.size else {}),
            "cpu_us_per_event": round(result["cpu_s"] / max(n, 1) * 1e6, 3),
            "peak_memory_mb": None if memory is None else round(memory / 1e6, 1),
        }

    return {
        "ok": not any(handled["check"].values()),
        "events": n_events,
        **asked,
        "mode": published["mode"],
        "publish": side(published, n_events),
        "handle": side(handled, n_events * work.subscriptions),
        "publish_to_handler_ms": {"p50": round(handled["p50_ms"], 3), "p99": round(handled["p99_ms"], 3)},
        "check": handled["check"],
        "server": figures.server,
        "python": python_name(),
        "version": __version__,
    }


def print_report(report: dict[str, Any], titles: Titles, console: Console) -> None:
    """Print the table and the result of the check."""
    console.print(titles.table.format(events=report["events"]), highlight=False)
    table = Table("", "publish", "handle")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = (
        ("events/s", "events_per_s", ",.0f"),
        ("payload MB/s", "mb_per_s", ",.2f"),
        ("client CPU per event, µs", "cpu_us_per_event", ".2f"),
        ("peak memory, MB", "peak_memory_mb", ",.1f"),
    )
    for title, name, form in rows:
        values = [report[side].get(name) for side in ("publish", "handle")]
        if None not in values:
            table.add_row(title, *(format(value, form) for value in values))
    for share, value in report["publish_to_handler_ms"].items():
        table.add_row(f"publish to handler, {share}, ms", "", f"{value:,.2f}")
    table.add_row("publisher mode", report["mode"], "")
    console.print(table)
    if report["ok"]:
        console.print(f"[green]check passed[/]: {titles.passed}")
    else:
        found = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in report["check"].items() if count)
        console.print(f"[red]check failed[/]: {found}")
