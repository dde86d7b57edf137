"""The patterns for names of streams, subscriptions and domains, and the types of the events that eda itself makes."""

from __future__ import annotations

import re

__all__ = ["DOMAIN", "FORGOTTEN", "MAX_NAME", "SNAPSHOT", "STREAM_NAME", "SUBSCRIPTION_NAME"]

MAX_NAME = 64  # characters, for streams and subscriptions
STREAM_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}")
SUBSCRIPTION_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}")
DOMAIN = re.compile("[A-Za-z0-9_-]+")

FORGOTTEN = "eda.forgotten"  # a tombstone: the last event of an aggregate that was forgotten
SNAPSHOT = "eda.snapshot"  # a snapshot of an aggregate, in a stream of its own
