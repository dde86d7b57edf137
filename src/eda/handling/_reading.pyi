from typing_extensions import disjoint_base

from eda.transport._frame import Sink

__all__ = ["EventReader"]

@disjoint_base
class EventReader(Sink):
    @property
    def n_undecodable(self) -> int: ...
