"""How many events a run may have, and how small its payloads may be. `eda --help` needs this file, so it is small."""

from __future__ import annotations

import struct

__all__ = ["BARE_JSON_BYTES", "HEAD", "MAX_EVENTS", "MIN_SIZES", "N_SENSORS"]

MAX_EVENTS = 100_000_000
N_SENSORS = 1000

# A payload of bytes begins with the event's number and the time of its publish in ns.
HEAD = struct.Struct("<QQ")
# The JSON payload without its number and padding. The time in ns has 19 digits until the year 2286.
BARE_JSON_BYTES = len('{"number":,"published_ns":,"pad":""}') + 19

MIN_SIZES = {"bytes": HEAD.size, "json": BARE_JSON_BYTES + len(str(MAX_EVENTS))}
