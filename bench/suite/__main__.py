"""`python -m suite` in bench/: run the suite, write the results, print the summary."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import eda
from suite import machine
from suite.cells import cells
from suite.micro import run_micro
from suite.run import Suite
from suite.servers import Servers
from suite.summary import headlines, print_summary

SCHEMA = 1
RESULTS = Path(__file__).parents[1] / "results"


@click.command()
@click.option("--addr", metavar="URL", help="A server of yours. [default: nats-servers of the suite's own]")
@click.option("--quick", is_flag=True, help="Everything once and briefly: to see that it works, not for figures.")
@click.option("--minutes", default=11.5, show_default=True, help="What the live part may take.")
@click.option("--only", multiple=True, metavar="GROUP", help="Only these groups, like 'consume'; without micro.")
@click.option("--contender", multiple=True, metavar="NAME", help="Only these, like 'nats-py' or 'nats-py, push'.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Where the results go.")
@click.option("--plots", type=click.Path(path_type=Path), help="Write the plots here as well, one SVG each.")
def main(
    addr: str | None,
    quick: bool,
    minutes: float,
    only: tuple[str, ...],
    contender: tuple[str, ...],
    results: Path,
    plots: Path | None,
) -> None:
    """Measure eda and its rivals side by side."""
    console = Console()
    began = time.monotonic()
    try:
        described = asyncio.run(machine.describe(addr))
    except eda.EdaError as error:
        raise click.ClickException(str(error)) from None
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": described,
    }
    micro, failure = ([], "") if only else run_micro()
    suite = asyncio.run(live(addr, quick, minutes, only, contender, console))
    report |= {
        "load_average_after": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "took_s": round(time.monotonic() - began),
        "notices": [*suite.notices, *([failure] if failure else [])],
        "headlines": headlines(suite.rows),
        "results": suite.rows,
        "micro": micro,
    }
    write(report, results, plots, console)
    print_summary(report, console)
    if any(" failed: " in notice for notice in report["notices"]):
        raise click.exceptions.Exit(1)


async def live(
    addr: str | None,
    quick: bool,
    minutes: float,
    only: tuple[str, ...],
    contender: tuple[str, ...],
    console: Console,
) -> Suite:
    planned = [cell for cell in cells(quick=quick) if not only or cell.group in only]
    if contender:
        planned = [cell.of(contender) for cell in planned]
    if not planned or not any(cell.contenders for cell in planned):
        raise click.UsageError("no group and contender of these names")

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    async with Servers.open(addr) as servers:
        suite = Suite(servers, planned, minutes, quick, say)
        await suite.run()
    return suite


def write(report: dict[str, Any], results: Path, plots: Path | None, console: Console) -> None:
    """Write JSON, HTML and the plots."""
    from suite.plots import plots as draw  # matplotlib takes a second: not while something is measured
    from suite.report import html

    drawn = draw(report)
    host = re.sub(r"[^A-Za-z0-9-]+", "-", report["machine"]["host"])
    base = results / f"{report['date'][:10]}-{host}{'-quick' if report['quick'] else ''}"
    results.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".json").write_text(compact(report))
    base.with_suffix(".html").write_text(html(report, drawn), encoding="utf-8")
    for name, svg in drawn.items() if plots else ():
        plots.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
        (plots / f"{name}.svg").write_text(svg, encoding="utf-8")  # type: ignore[operator]
    console.print(f"written: {base}.json, {base}.html", markup=False, soft_wrap=True)


def compact(report: dict[str, Any]) -> str:
    """Return JSON with a line for each row."""
    lines = []
    for key, value in report.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value) + "\n ]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
