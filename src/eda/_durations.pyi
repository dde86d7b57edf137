from typing import final

__all__ = ["BOUNDS_S", "Durations"]

BOUNDS_S: tuple[float, ...]

@final
class Durations:
    def note(self, ns: int, n: int = 1) -> None: ...
    def read(self) -> tuple[tuple[int, ...], float]: ...
