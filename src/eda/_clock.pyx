"""The monotonic clock of the compiled modules, for Python code whose times are compared with theirs."""

__all__ = ["read_monotonic_ns"]


def read_monotonic_ns():
    """Return the monotonic time in nanoseconds. On some systems `time.monotonic` reads another clock."""
    return monotonic_ns()
