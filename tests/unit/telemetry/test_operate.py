"""`examples/operate`: dashboard and alert rules use only metrics and labels that there are, in valid expressions.

`promql-parser` is Prometheus's grammar in Rust; it also checks the functions and the types of their arguments.
Prometheus's own `promtool` is no Python package. What it checks of a rule file besides the expressions is checked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from eda.telemetry.families import LAG, LAG_S, OF_CONNECTIONS, OF_PUBLISHERS, OF_SUBSCRIPTIONS

OPERATE = Path(__file__).resolve().parents[3] / "examples" / "operate"
TARGET = {"job", "instance"}  # Prometheus adds them to each series

LABELS: dict[str, set[str]] = {}
for families, labels in (
    (OF_CONNECTIONS, set[str]()),
    (OF_PUBLISHERS, {"stream"}),
    ((*OF_SUBSCRIPTIONS, LAG, LAG_S), {"stream", "subscription"}),
):
    for family in families:
        if family.kind == "histogram":
            LABELS |= {f"{family.name}_{part}": labels for part in ("sum", "count")}
            LABELS[f"{family.name}_bucket"] = labels | {"le"}
        else:
            LABELS[family.exposed] = labels

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((OPERATE / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((OPERATE / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    f"{panel['title']}-{target['refId']}": (target["expr"], target["legendFormat"])
    for panel in PANELS
    for target in panel["targets"]
}


def parse(expression: str) -> Any:
    """Return a parsed expression. Grafana's variables become durations."""
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


def selectors(expression: Any) -> Iterator[Any]:
    """Return the selectors of an expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs"):
        inner = getattr(expression, name, None)
        if inner is not None:
            yield from selectors(inner)
    for argument in getattr(expression, "args", None) or []:
        yield from selectors(argument)


def kept_labels(expression: Any) -> set[str]:
    """Return the labels that the result has."""
    if isinstance(expression, promql_parser.AggregateExpr):
        return set(expression.modifier.labels) if expression.modifier is not None else set()
    found = [LABELS[each.name] | TARGET for each in selectors(expression)]
    inner = getattr(expression, "lhs", None) or getattr(expression, "expr", None)
    if inner is not None:
        return kept_labels(inner)
    arguments = getattr(expression, "args", None)
    if arguments:
        return kept_labels(arguments[-1])
    return found[0]


def check(text: str) -> Any:
    """Fail unless an expression is valid, and uses metrics and labels that there are."""
    expression = parse(text)
    used = list(selectors(expression))
    assert used
    assert {each.name for each in used} == set(re.findall(r"eda_[a-z_]+", text))
    for each in used:
        assert each.name in LABELS, f"there is no metric {each.name}"
        for matcher in each.matchers.matchers:
            assert matcher.name in LABELS[each.name] | TARGET, f"{each.name} has no label {matcher.name}"
    for by in re.findall(r"\bby \(([^)]*)\)", text):
        for label in by.split(", "):
            assert any(label in LABELS[each.name] for each in used), f"there is no label {label}"
    return expression


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_rule_when_checked_is_what_prometheus_takes(rule: dict[str, Any]) -> None:
    expression = check(rule["expr"])
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch("Eda[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    shown = " ".join(rule["annotations"].values())
    assert shown.count("{{") == shown.count("}}")
    for label in re.findall(r"\$labels\.(\w+)", shown):
        assert label in kept_labels(expression), f"the result has no label {label}"


def test_rules_when_compared_have_names_of_their_own() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 10


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_query_of_the_dashboard_when_checked_uses_what_there_is(query: tuple[str, str]) -> None:
    text, legend = query
    expression = check(text)
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert label in kept_labels(expression), f"the result has no label {label}"
    for variable in re.findall(r"\$(\w+)", text):
        assert variable in {"__rate_interval", *(each["name"] for each in DASHBOARD["templating"]["list"])}


def test_dashboard_when_checked_is_complete() -> None:
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"panel {panel['title']} overlaps another"
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_metric_is_on_the_dashboard_or_in_a_rule_or_named_here() -> None:
    texts = " ".join([*(text for text, _ in QUERIES.values()), *(rule["expr"] for rule in RULES)])
    left = {name for name in LABELS if name not in re.findall(r"eda_[a-z_]+", texts)}
    assert left == {
        *("eda_publish_duration_seconds_sum", "eda_publish_duration_seconds_count", "eda_publish_pending_bytes"),
        *("eda_publish_window_bytes", "eda_publish_publishers", "eda_subscription_handler_seconds_sum"),
        "eda_subscription_handler_seconds_count",
        *("eda_subscription_passed_over_events_total", "eda_subscription_held_bytes"),
        "eda_subscription_prefetch_bytes",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        "rate(eda_publish_events_total)",
        "sum by (stream) (rate(eda_no_such_metric[5m]))",
        'eda_connections{stream="a"}',
        "sum by (subscription) (eda_publish_pending_events)",
        "max(eda_connections",
        "no_such_function(eda_connections)",
    ],
)
def test_check_when_an_expression_is_wrong_fails(wrong: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(wrong)
