"""The headline ratios, each between two figures of one cell in one run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["headlines", "print_summary"]

# group, ours, theirs
PAIRS = [
    ("publish single", "eda, single", "nats-py, single"),
    ("publish single", "eda, single", "FastStream, single"),
    ("publish single", "eda, single", "nats.c, single"),
    ("publish single", "eda uvloop, single", "bare socket, single"),
    ("publish concurrent", "eda, concurrent", "nats-py, concurrent"),
    ("publish concurrent", "eda, concurrent", "FastStream, concurrent"),
    ("publish concurrent", "eda, concurrent", "nats.c, concurrent"),
    ("publish at volume", "eda, fast", "nats-py, publish_async"),
    ("publish at volume", "eda, window", "nats-py, publish_async"),
    ("publish at volume", "eda, fast", "FastStream, concurrent"),
    ("publish at volume", "eda, fast", "nats.c, publish_async"),
    ("publish at volume", "eda, fast", "bare socket, fast"),
    ("publish at volume", "eda, window", "bare socket, window"),
    ("consume", "eda, default", "nats-py, push"),
    ("consume", "eda, default", "nats-py, fetch"),
    ("consume", "eda, default", "FastStream, pull"),
    ("consume", "eda, default", "FastStream, push"),
    ("consume", "eda, default", "nats.c, push"),
    ("consume", "eda, default", "bare socket, pull"),
    ("consume", "eda, serial", "nats-py, one at a time"),
    ("consume", "eda, exclusive batch", "eda, default"),
]


def headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each pair that was measured: how many times the rate, and how many times less CPU per event."""
    found = {(row["group"], row["contender"]): row for row in rows if row["workload"] != "latency"}
    lines = []
    for group, ours, theirs in PAIRS:
        a, b = found.get((group, ours)), found.get((group, theirs))
        if a is None or b is None:
            continue
        cpu = None
        if a["cpu_us_per_event"] and b["cpu_us_per_event"]:
            cpu = round(b["cpu_us_per_event"]["median"] / max(a["cpu_us_per_event"]["median"], 1e-3), 2)
        rate = round(a["events_per_s"]["median"] / b["events_per_s"]["median"], 2)
        lines.append({"group": group, "ours": ours, "theirs": theirs, "rate": rate, "cpu": cpu})
    return lines


def print_summary(report: dict[str, Any], console: Console) -> None:
    """Print the ratios, and the latencies."""
    table = Table("", "", "beside", "times its rate", "its CPU is times ours", title="128 B, medians of one run")
    for line in report["headlines"]:
        cpu = "-" if line["cpu"] is None else f"{line['cpu']:.2f}"
        table.add_row(line["group"], line["ours"], line["theirs"], f"{line['rate']:.2f}", cpu)
    latency = Table("publish to handler", "offered load", "events/s", "p50 ms", "p99 ms", "p99.9 ms")
    for row in report["results"]:
        if "latency_ms" in row:
            ms = row["latency_ms"]
            latency.add_row(
                row["contender"].partition(",")[0], row["load"], f"{row['offered']:,}",
                *[f"{ms[name]:.2f}" for name in ("p50", "p99", "p99.9")],
            )  # fmt: skip
    for each in (table, latency):
        if each.rows:
            console.print(each)
    for notice in report["notices"]:
        console.print(f"note: {notice}", markup=False)
