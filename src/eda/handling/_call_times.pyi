from typing import final

from eda._durations import Durations
from eda.error_counts import ErrorCounts

__all__ = ["CallTimes"]

@final
class CallTimes:
    @property
    def succeeded(self) -> Durations: ...
    @property
    def failed(self) -> Durations: ...
    @property
    def errors(self) -> ErrorCounts: ...
