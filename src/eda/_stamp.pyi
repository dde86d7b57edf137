from collections.abc import Iterable

from typing_extensions import disjoint_base

from eda._event import Event

__all__ = ["SameMeta", "Stamp"]

@disjoint_base
class Stamp:
    def __init__(self, entries: dict[str, str], names: Iterable[str]) -> None: ...
    def on(self, event: Event, /) -> Event: ...

@disjoint_base
class SameMeta:
    def note(self, event: Event, /) -> int: ...
    def is_in(self, event: object, /) -> bool: ...
