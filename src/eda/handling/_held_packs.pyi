from typing import final

__all__ = ["HeldPacks"]

@final
class HeldPacks:
    @property
    def n_held(self) -> int: ...
    def __init__(self) -> None: ...
