from typing import Any

from eda._event import Event

__all__ = ["decode_payload"]

def decode_payload(event: Event) -> Any: ...
