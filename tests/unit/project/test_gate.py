"""bench/gate.py with results that are made up: what fails, what is measured again, what is an error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="the benchmarks need POSIX")

from gate import Gate, GateError, Measure, judge, load, main, table

ENTRY = {"name": "encode", "measure": "fake", "ours": "a", "reference": "b", "at_least": 10.0, "why": "it is hot"}


class Fake:
    """Gives one dictionary of figures after the other, the last one for ever."""

    def __init__(self, *results: dict[str, float]) -> None:
        self.results = list(results)
        self.asked: list[list[str]] = []
        self.measures = {"fake": Measure(lambda figure: figure in "abc", self.measure)}

    def measure(self, figures: Iterable[str]) -> dict[str, float]:
        self.asked.append(list(figures))
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


def written(tmp_path: Path, *entries: dict[str, object]) -> Path:
    path = tmp_path / "gates.toml"
    lines = []
    for entry in entries:
        lines += ["[[gate]]", *(f"{key} = {value!r}" for key, value in entry.items())]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_gate_when_fast_passes_and_is_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake({"a": 1.0, "b": 12.0})
    assert main(written(tmp_path, ENTRY), fake.measures) == 0
    assert fake.asked == [["a", "b"]]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ok"))
    assert line.split() == ["ok", "encode", "12.00", ">=", "10", "+20%"]


def test_gate_when_slow_is_measured_again_and_then_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake({"a": 2.0, "b": 12.0})
    assert main(written(tmp_path, ENTRY), fake.measures) == 1
    assert len(fake.asked) == 3
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("FAIL"))
    assert line.split()[:6] == ["FAIL", "encode", "6.00", ">=", "10", "-40%"]
    assert "it is hot" in out


def test_gate_when_slow_once_passes_and_only_it_is_measured_again(tmp_path: Path) -> None:
    fake = Fake({"a": 2.0, "b": 12.0, "c": 30.0}, {"a": 1.0, "b": 12.0})
    gates = load(written(tmp_path, ENTRY, ENTRY | {"name": "other", "reference": "c"}), fake.measures)
    verdicts = judge(gates, fake.measures)
    assert [verdict.holds for verdict in verdicts] == [True, True]
    assert fake.asked == [["a", "b", "c"], ["a", "b"]]
    assert "after 6.00" in table(verdicts)


@pytest.mark.parametrize("figures", [{"a": 1.0}, {"b": 12.0}, {}, {"a": 0.0, "b": 12.0}], ids=str)
def test_gate_when_a_measurement_is_missing_fails(
    figures: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(written(tmp_path, ENTRY), Fake(figures).measures) == 1
    assert "missing" in capsys.readouterr().out


@pytest.mark.parametrize(("ours", "holds"), [(5.9, True), (6.1, False)])
def test_gate_when_at_most_compares_the_other_way_round(ours: float, holds: bool) -> None:
    gate = Gate("dispatch", "fake", "a", "b", bar=6.0, at_least=False, why="x")
    ratio = gate.ratio({"a": ours, "b": 1.0})
    assert ratio == ours
    assert gate.holds(ratio) is holds
    assert (gate.margin(ratio) > 0) is holds


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"ours": "x"}, "no figure 'x'"),
        ({"measure": "x"}, "measure must be one of fake"),
        ({"at_most": 1.0}, "either at_least or at_most"),
        ({"at_least": 0}, "positive number"),
        ({"at_least": "fast"}, "positive number"),
        ({"why": " "}, "why must be a text"),
        ({"bound": 3}, "unknown key bound"),
    ],
    ids=str,
)
def test_gates_when_one_is_wrong_name_it(
    change: dict[str, object], culprit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, ENTRY | change)
    with pytest.raises(GateError, match="gate 1, 'encode'.*" + culprit):
        load(path, Fake({}).measures)
    assert main(path, Fake({}).measures) == 2
    assert culprit in capsys.readouterr().err


def test_gates_when_two_have_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="another gate of that name"):
        load(written(tmp_path, ENTRY, ENTRY), Fake({}).measures)


def test_gates_when_nothing_can_be_measured_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(_: Iterable[str]) -> dict[str, float]:
        raise RuntimeError("valgrind is not installed")

    assert main(written(tmp_path, ENTRY), {"fake": Measure(lambda _: True, measure)}) == 2
    assert "valgrind is not installed" in capsys.readouterr().err


def test_gates_of_the_project_are_right() -> None:
    assert len(load(Path(__file__).resolve().parents[3] / "bench" / "gates.toml")) > 20
