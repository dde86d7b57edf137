"""`make gate`: measure what gates.toml lists, and end with 1 when a ratio does not hold.

A gate is what must not get worse. One that fails is measured again, twice at most, before it is believed: somebody else
may have been at work on the machine.
"""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests")]

import gate_instructions  # noqa: E402
import gate_live  # noqa: E402

__all__ = ["MEASURES", "Gate", "GateError", "Measure", "Verdict", "judge", "load", "main", "table"]

N_TRIES = 3


class GateError(Exception):
    """gates.toml is wrong, or nothing can be measured here."""


@dataclass(frozen=True)
class Measure:
    """A way of measuring."""

    is_known: Callable[[str], bool]
    """whether it has a figure of that name"""
    measure: Callable[[Iterable[str]], dict[str, float]]
    """the figures of these names, less is better; without those that could not be measured"""


MEASURES = {
    "instructions": Measure(gate_instructions.is_known, gate_instructions.measure),
    "live": Measure(gate_live.is_known, gate_live.measure),
}


@dataclass(frozen=True)
class Gate:
    """A ratio that must hold."""

    name: str
    measure: str
    """a key of MEASURES"""
    ours: str
    """the figure"""
    reference: str
    """the figure that it is compared with"""
    bar: float
    at_least: bool
    """`bar` is the least that reference / ours may be; else the most that ours / reference may be"""
    why: str

    def ratio(self, figures: Mapping[str, float]) -> float | None:
        """Return the ratio; None where a figure is missing, or is no positive number."""
        ours, reference = figures.get(self.ours, 0.0), figures.get(self.reference, 0.0)
        if not (ours > 0 and reference > 0):
            return None
        return reference / ours if self.at_least else ours / reference

    def holds(self, ratio: float | None) -> bool:
        """Whether the gate holds; not when there is no ratio."""
        return ratio is not None and (ratio >= self.bar if self.at_least else ratio <= self.bar)

    def margin(self, ratio: float) -> float:
        """Return how far the ratio is on the good side of the bar, as a part of the bar."""
        return (ratio / self.bar - 1) * (1 if self.at_least else -1)


@dataclass
class Verdict:
    """A gate's ratio in each try."""

    gate: Gate
    ratios: list[float | None]

    @property
    def holds(self) -> bool:
        """Whether the last try was good enough."""
        return self.gate.holds(self.ratios[-1])


def load(path: Path, measures: Mapping[str, Measure] = MEASURES) -> list[Gate]:
    """Read the gates. Raises GateError naming the gate that is wrong."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise GateError(f"{path.name}: {error}") from error
    entries = document.pop("gate", [])
    if document or not isinstance(entries, list) or not entries:
        raise GateError(f"{path.name}: it must have [[gate]] tables and nothing else")
    gates: list[Gate] = []
    for number, entry in enumerate(entries, 1):
        label = f"{path.name}: gate {number}, {entry.get('name', 'without name')!r}"
        gate = _gate(entry, label)
        if gate.measure not in measures:
            raise GateError(f"{label}: measure must be one of {', '.join(measures)}, not {gate.measure!r}")
        for figure in (gate.ours, gate.reference):
            if not measures[gate.measure].is_known(figure):
                raise GateError(f"{label}: {gate.measure} has no figure {figure!r}")
        if any(gate.name == other.name for other in gates):
            raise GateError(f"{label}: there is another gate of that name")
        gates.append(gate)
    return gates


def _gate(entry: dict[str, Any], label: str) -> Gate:
    texts = ("name", "measure", "ours", "reference", "why")
    bars = [key for key in ("at_least", "at_most") if key in entry]
    unknown = entry.keys() - {*texts, "at_least", "at_most"}
    if unknown:
        raise GateError(f"{label}: unknown key {', '.join(sorted(unknown))}")
    for key in texts:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise GateError(f"{label}: {key} must be a text")
    if len(bars) != 1:
        raise GateError(f"{label}: it must have either at_least or at_most")
    bar = entry[bars[0]]
    if isinstance(bar, bool) or not isinstance(bar, int | float) or not 0 < bar < float("inf"):
        raise GateError(f"{label}: {bars[0]} must be a positive number")
    return Gate(**{key: entry[key] for key in texts}, bar=float(bar), at_least=bars[0] == "at_least")


def judge(
    gates: list[Gate],
    measures: Mapping[str, Measure] = MEASURES,
    tell: Callable[[str], None] = lambda _: None,
    n_tries: int = N_TRIES,
) -> list[Verdict]:
    """Measure, and measure again what fails."""
    verdicts = [Verdict(gate, []) for gate in gates]
    for attempt in range(n_tries):
        due = [verdict for verdict in verdicts if not verdict.ratios or not verdict.holds]
        for name in dict.fromkeys(verdict.gate.measure for verdict in due):
            asked = [verdict for verdict in due if verdict.gate.measure == name]
            wanted = dict.fromkeys(
                figure for verdict in asked for figure in (verdict.gate.ours, verdict.gate.reference)
            )
            again = ", again: " + "; ".join(verdict.gate.name for verdict in asked) if attempt else ""
            tell(f"measuring {name}, {len(wanted)} figures{again}")
            figures = measures[name].measure(list(wanted))
            for verdict in asked:
                verdict.ratios.append(verdict.gate.ratio(figures))
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """Return figure, bar and margin of each gate, and the reason of each that fails."""
    width = max(len(verdict.gate.name) for verdict in verdicts)
    lines = [f"{'':4} {'gate':{width}} {'ratio':>8} {'bar':>9} {'margin':>7}"]
    for verdict in verdicts:
        gate, ratio = verdict.gate, verdict.ratios[-1]
        bar = f"{'>=' if gate.at_least else '<='} {gate.bar:g}"
        margin = "-" if ratio is None else f"{gate.margin(ratio):+.0%}"
        before = f"  after {', '.join(map(_shown, verdict.ratios[:-1]))}" if len(verdict.ratios) > 1 else ""
        mark = "ok" if verdict.holds else "FAIL"
        lines.append(f"{mark:4} {gate.name:{width}} {_shown(ratio):>8} {bar:>9} {margin:>7}{before}")
    for verdict in verdicts:
        if not verdict.holds:
            gate = verdict.gate
            compared = f"{gate.reference} / {gate.ours}" if gate.at_least else f"{gate.ours} / {gate.reference}"
            lines += ["", f"{gate.name}: {compared} ({gate.measure})", f"  {' '.join(gate.why.split())}"]
    return "\n".join(lines)


def _shown(ratio: float | None) -> str:
    return "missing" if ratio is None else f"{ratio:.2f}"


def main(path: Path = BENCH / "gates.toml", measures: Mapping[str, Measure] = MEASURES) -> int:
    """Judge all gates and print the table; returns 0 when they hold, 1 when one does not, 2 when it can't be told."""
    started = time.monotonic()
    try:
        verdicts = judge(load(path, measures), measures, lambda line: print(line, flush=True))
    except (GateError, OSError, RuntimeError) as error:
        print(f"gate: {error}", file=sys.stderr)
        return 2
    print(table(verdicts))
    failed = sum(not verdict.holds for verdict in verdicts)
    print(f"{len(verdicts)} gates, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
