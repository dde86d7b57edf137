"""The figures, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from suite.work import QUANTILES

__all__ = ["plots"]

COLOURS = {
    "eda": "#1769aa",
    "nats-py": "#d9822b",
    "FastStream": "#8e44ad",
    "nats.c": "#2e8b57",
    "bare socket": "#777777",
}

# Text stays text, and the same figures give the same file.
mpl.rcParams.update(
    {"svg.fonttype": "none", "svg.hashsalt": "eda", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
)


def plots(report: dict[str, Any]) -> dict[str, str]:
    """Return the SVG of each plot that there are figures for, by its file name without suffix."""
    rows = report["results"]

    def of(group: str) -> list[dict[str, Any]]:
        return [row for row in rows if row["group"] == group]

    made = {
        "throughput": lambda: by_size([("publish", of("publish by size")), ("consume", of("consume by size"))]),
        "ways": lambda: bars(
            [(group, of(group)) for group in ("publish single", "publish concurrent", "publish at volume", "consume")],
            lambda row: row["events_per_s"], "thousand events per second", 1000,
        ),
        "cpu": lambda: bars(
            [(group, of(group)) for group in ("publish at volume", "consume")],
            lambda row: row["cpu_us_per_event"], "client CPU per event, µs", 1,
        ),
        "latency": lambda: latency(of("latency")),
        "memory": lambda: memory([row for row in rows if "memory" in row]),
        "subscriptions": lambda: subscriptions(of("subscriptions")),
        "storage": lambda: storage([row for row in rows if row["group"].endswith("by storage")]),
    }  # fmt: skip
    drawn = {}
    for name, draw in made.items():
        if (figure := draw()) is not None:
            figure.supxlabel(caption(report), fontsize=6, color="#555555")
            drawn[name] = svg(figure)
    return drawn


def caption(report: dict[str, Any]) -> str:
    """Return on what it was measured, in one line."""
    machine = report["machine"]
    parts = [machine["cpu"], f"{machine['cores']} cores", machine["kernel"], machine["python"], machine["server"]]
    return ", ".join([*parts, report["date"][:10]])


def svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    text = out.getvalue()
    return "\n".join(line.rstrip() for line in text[text.index("<svg") :].splitlines()) + "\n"


def panels(n: int, width: float = 4.6, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * n, height), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def style(label: str) -> dict[str, Any]:
    client = label.partition(",")[0]
    uvloop = client.endswith(" uvloop")
    return {"color": COLOURS[client.removesuffix(" uvloop")], "linestyle": "--" if uvloop else "-"}


def series(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["contender"], []).append(row)
    return by


def by_size(parts: list[tuple[str, list[dict[str, Any]]]]) -> Figure | None:
    parts = [part for part in parts if part[1]]
    if not parts:
        return None
    figure, axes = panels(len(parts))
    for axis, (title, rows) in zip(axes, parts, strict=True):
        for label, each in series(rows).items():
            sizes = [row["size"] for row in each]
            rates = [row["events_per_s"] for row in each]
            axis.plot(sizes, [rate["median"] for rate in rates], marker="o", markersize=3, label=label, **style(label))
            low, high = [rate["min"] for rate in rates], [rate["max"] for rate in rates]
            axis.fill_between(sizes, low, high, alpha=0.15, color=style(label)["color"])
        axis.set(title=title, xscale="log", yscale="log", xlabel="payload, bytes", ylabel="events per second")
        axis.legend(fontsize=7)
    return figure


def bars(
    parts: list[tuple[str, list[dict[str, Any]]]], value: Callable[[dict[str, Any]], Any], unit: str, scale: float
) -> Figure | None:
    parts = [(title, kept) for title, rows in parts if (kept := [row for row in rows if value(row)])]
    if not parts:
        return None
    figure = Figure(figsize=(7.5, 0.26 * sum(len(rows) + 1.6 for _, rows in parts)), layout="constrained")
    ratios = [len(rows) + 1 for _, rows in parts]
    axes = figure.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
    for axis, (title, rows) in zip(axes, parts, strict=True):
        ordered = sorted(rows, key=lambda row: value(row)["median"])
        medians = [value(row)["median"] / scale for row in ordered]
        errors = [
            [max(0.0, at - value(row)["min"] / scale) for at, row in zip(medians, ordered, strict=True)],
            [max(0.0, value(row)["max"] / scale - at) for at, row in zip(medians, ordered, strict=True)],
        ]
        colours = [style(row["contender"])["color"] for row in ordered]
        labels = [row["contender"] for row in ordered]
        axis.barh(labels, medians, xerr=errors, color=colours, height=0.7, error_kw={"linewidth": 0.8})
        axis.set_title(title, fontsize=9, loc="left")
        axis.grid(visible=False, axis="y")
    axes[-1].set_xlabel(unit)
    return figure


def latency(rows: list[dict[str, Any]]) -> Figure | None:
    loads = list(dict.fromkeys(row["load"] for row in rows))
    if not loads:
        return None
    figure, axes = panels(len(loads), 3.2)
    for axis, load in zip(axes, loads, strict=True):
        for row in rows:
            if row["load"] == load:
                label = f"{row['contender'].partition(',')[0]} ({row['offered']:,}/s)"
                beyond = [1 / (1 - min(q, 0.99995)) for q in QUANTILES]
                axis.plot(beyond, [us / 1000 for us in row["latency_us"]], label=label, **style(row["contender"]))
        axis.set(title=load, xscale="log", yscale="log", xlabel="percentile")
        axis.set_xticks([1, 2, 10, 100, 1000, 10_000], ["0", "50", "90", "99", "99.9", "99.99"])
        axis.legend(fontsize=6)
    axes[0].set_ylabel("publish to handler, ms")
    return figure


def memory(rows: list[dict[str, Any]]) -> Figure | None:
    groups = list(dict.fromkeys(row["group"] for row in rows))
    if not groups:
        return None
    figure, axes = panels(len(groups))
    for axis, group in zip(axes, groups, strict=True):
        for row in rows:
            if row["group"] == group:
                label = f"{row['contender']}: {row['events']:,} events"
                axis.plot(*zip(*row["memory"], strict=True), label=label, **style(row["contender"]))
        axis.set(title=group, xlabel="seconds since the process started", ylabel="resident memory, MB", ylim=(0, None))
        axis.legend(fontsize=7)
    return figure


def subscriptions(rows: list[dict[str, Any]]) -> Figure | None:
    if not rows:
        return None
    figure, (axis,) = panels(1)
    for label, each in series(rows).items():
        counts = [row["subscriptions"] for row in each]
        axis.plot(counts, [row["events_per_s"]["median"] for row in each], marker="o", label=label, **style(label))
        axis.set_xticks(counts)
    axis.set(xlabel="subscriptions in one process", ylabel="events per second, together", ylim=(0, None))
    axis.legend(fontsize=7)
    return figure


def storage(rows: list[dict[str, Any]]) -> Figure | None:
    groups = list(dict.fromkeys(row["group"] for row in rows))
    if not groups:
        return None
    figure, axes = panels(len(groups))
    for axis, group in zip(axes, groups, strict=True):
        by = series(row for row in rows if row["group"] == group)
        width = 0.8 / len(by)
        for n, (label, each) in enumerate(by.items()):
            at = [i + n * width for i in range(len(each))]
            medians = [row["events_per_s"]["median"] for row in each]
            hatch = "//" if "window" in label else ""
            axis.bar(at, medians, width * 0.9, label=label, color=style(label)["color"], hatch=hatch)
            axis.set_xticks([i + 0.3 for i in range(len(each))], [row["storage"] for row in each])
        axis.set(title=group.removesuffix(" by storage"), ylabel="events per second")
        axis.legend(fontsize=7)
    return figure
