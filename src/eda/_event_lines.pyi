from collections.abc import Callable

from eda._event import Event

__all__ = ["events_of_lines", "n_lines_of"]

def events_of_lines(lines: bytes, read_line: Callable[[bytes], Event]) -> list[Event]: ...
def n_lines_of(lines: bytes) -> int: ...
