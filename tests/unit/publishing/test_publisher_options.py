"""The options of a publisher have the same defaults for users and inside eda."""

from __future__ import annotations

import dataclasses
import inspect

import eda
from eda.publishing.publisher_options import PublisherOptions


def test_defaults_are_those_of_conn_publisher() -> None:
    parameters = inspect.signature(eda.Conn.publisher).parameters
    public = {name: parameter.default for name, parameter in parameters.items() if name not in ("self", "stream")}
    assert dataclasses.asdict(PublisherOptions()) == public | {"stops_on_failure": False}
