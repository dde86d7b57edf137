from typing import final

__all__ = ["WaitingWorkers"]

@final
class WaitingWorkers: ...
