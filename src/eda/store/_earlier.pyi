from collections.abc import Sequence

__all__ = ["EARLIER", "MOST", "earlier_in", "value_of", "with_all"]

EARLIER: str
MOST: int

def with_all(earlier: str, sequences: Sequence[int]) -> str: ...
def value_of(earlier: str, n_before: int = 0) -> str: ...
def earlier_in(headers: bytes, sequence: int) -> list[int]: ...
