"""What a publisher is asked to be, checked."""

from __future__ import annotations

from eda.callbacks import check_callback
from eda.errors import ConfigError

__all__ = ["check_publisher_options"]


def check_publisher_options(
    mode: object,
    dedup: object,
    max_pending: object,
    max_pending_bytes: object,
    ack_timeout_s: object,
    timeout_s: object,
    on_ack: object,
    on_error: object,
) -> None:
    """Raise ConfigError naming the option that can't be right."""
    if mode not in ("auto", "window", "fast"):
        raise ConfigError(f"mode must be 'auto', 'window' or 'fast', not {mode!r}", argument="mode")
    if not isinstance(dedup, bool):
        raise ConfigError(f"dedup must be True or False, not {dedup!r}", argument="dedup")
    for name, number, most in (("max_pending", max_pending, 65_536), ("max_pending_bytes", max_pending_bytes, 2**40)):
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
            raise ConfigError(f"{name} must be an int from 1 to {most}, not {number!r}", argument=name)
    for name, seconds in (("ack_timeout_s", ack_timeout_s), ("timeout_s", timeout_s)):
        if seconds is None and name == "timeout_s":
            continue
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0.001 <= seconds <= 86_400:
            raise ConfigError(f"{name} must be from 0.001 to 86400 seconds, not {seconds!r}", argument=name)
    check_callback("on_ack", on_ack)
    check_callback("on_error", on_error)
