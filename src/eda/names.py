"""The patterns for names of streams and subscriptions."""

from __future__ import annotations

import re

__all__ = ["MAX_NAME", "STREAM_NAME", "SUBSCRIPTION_NAME"]

MAX_NAME = 64  # characters, for streams and subscriptions
STREAM_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}")
SUBSCRIPTION_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}")
