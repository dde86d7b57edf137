from collections.abc import Iterable
from typing import final

from eda._event import Event

__all__ = ["SameMeta", "Stamp"]

@final
class Stamp:
    def __init__(self, entries: dict[str, str], names: Iterable[str]) -> None: ...
    def on(self, event: Event) -> Event: ...

@final
class SameMeta:
    def note(self, event: Event) -> int: ...
    def is_in(self, event: object) -> bool: ...
