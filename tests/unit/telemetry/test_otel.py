"""`eda.OpenTelemetry`: what it refuses, and that it imports no more than it says."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

import eda

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "provider": ({"tracer_provider": "sdk"}, "tracer_provider must be an OpenTelemetry TracerProvider or None"),
    "meters": ({"meter_provider": 5}, "meter_provider must be an OpenTelemetry MeterProvider or None, not 5"),
    "traces": ({"traces": None}, "traces must be True or False, not None"),
    "metrics": ({"metrics": 0}, "metrics must be True or False, not 0"),
    "baggage": ({"baggage": 1}, "baggage must be True or False, not 1"),
    "sampling": ({"follow_sampling": "yes"}, "follow_sampling must be True or False, not 'yes'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_telemetry_when_an_argument_is_wrong_is_refused(name: str) -> None:
    arguments, text = WRONG[name]
    with pytest.raises(eda.ConfigError, match=re.escape(text)) as caught:
        eda.OpenTelemetry(**arguments)
    assert caught.value.argument == next(iter(arguments))


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_telemetry_when_the_api_is_not_installed_says_what_to_install() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
import eda
try:
    eda.OpenTelemetry()
except eda.ConfigError as error:
    print(error)
"""
    assert run(code) == "eda.OpenTelemetry needs the package opentelemetry-api: install eda-fast[otel]"


def test_telemetry_when_used_does_not_import_the_sdk() -> None:
    code = """
import sys, eda
assert "opentelemetry" not in sys.modules
eda.connect("nats://127.0.0.1:4222", middleware=[eda.OpenTelemetry()])
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.semconv"))])
"""
    assert run(code) == "[]"
