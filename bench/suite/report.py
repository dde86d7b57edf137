"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

__all__ = ["html"]

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.5em 0 1.5em }
td, th { padding: 0.15em 0.8em; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } svg { max-width: 100%; height: auto }
"""

TITLES = {
    "ways": "Each way to publish and consume, 128 bytes",
    "throughput": "Throughput by payload size",
    "latency": "From publish to handler, open loop",
    "cpu": "CPU per event",
    "memory": "Memory over time",
    "subscriptions": "Several subscriptions",
    "storage": "Kinds of streams",
}


def html(report: dict[str, Any], drawn: dict[str, str]) -> str:
    """Return the page."""
    parts = [f"<h1>eda {escape(str(report['machine']['versions']['eda']))}, {escape(report['date'])}</h1>"]
    parts.append(table(("", ""), about(report)))
    if report["notices"]:
        parts.append("<ul>" + "".join(f"<li>{escape(notice)}</li>" for notice in report["notices"]) + "</ul>")
    parts.append("<h2>Ratios</h2>")
    parts.append(
        table(
            ("", "", "beside", "times its rate", "its CPU is times ours"),
            [(line["group"], line["ours"], line["theirs"], line["rate"], line["cpu"]) for line in report["headlines"]],
        )
    )
    for name, title in TITLES.items():
        if name in drawn:
            parts.append(f"<h2>{escape(title)}</h2>{drawn[name]}")
    parts.append("<h2>All figures</h2><p>Medians, and the range of the rounds.</p>")
    head = (
        "",
        "contender",
        "bytes",
        "stream",
        "subscriptions",
        "events/s",
        "range",
        "CPU µs",
        "peak MB",
        "p50/p99 ms",
        "mode",
    )
    parts.append(table(head, map(cells_of, report["results"])))
    if report["micro"]:
        parts.append("<h2>Micro benchmarks</h2>")
        micro = [(row["group"], row["name"], row["ns"]["median"], row["ns"]["iqr"]) for row in report["micro"]]
        parts.append(table(("", "", "median ns", "quartile range"), micro))
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>eda benchmarks</title><style>{STYLE}</style>"
    return head + "".join(parts) + "\n"


def about(report: dict[str, Any]) -> list[tuple[str, str]]:
    machine = report["machine"]
    versions = ", ".join(f"{name} {version or '(none)'}" for name, version in machine["versions"].items())
    keys = ("cpu", "cores", "kernel", "python", "server")
    lines = [(key, str(machine[key])) for key in keys]
    load = f"{machine['load_average_before']} before, {report['load_average_after']} after"
    return [*lines, ("versions", versions), ("load average", load), ("took", f"{report['took_s']} s")]


def cells_of(row: dict[str, Any]) -> tuple[Any, ...]:
    rate, cpu, rss = row["events_per_s"], row["cpu_us_per_event"], row["peak_rss_mb"]
    what = f"{row['group']}: {row['offered']:,}/s, {row['load']}" if "load" in row else row["group"]
    ms = f"{row['latency_ms']['p50']} / {row['latency_ms']['p99']}" if "latency_ms" in row and "load" in row else ""
    return (
        what, row["contender"], row["size"], row["storage"], row["subscriptions"], round(rate["median"]),
        f"{rate['min']:,.0f} to {rate['max']:,.0f}", cpu and cpu["median"], rss and rss["median"], ms, row["mode"],
    )  # fmt: skip


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, int | float):
            return f"<td class=n>{value:,}</td>"
        return f"<td>{escape('' if value is None else str(value))}</td>"

    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + f"</tr>{body}</table>"
