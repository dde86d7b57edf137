"""Events from payloads of a declared class, and payloads from events, beside the same without a declaration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

import eda
from eda._codec import decode_event, encode_event
from micro import Maker, Round

__all__ = ["CONTENDERS", "READING", "Reading"]


@eda.payload("reading-recorded", schema="2")
@dataclass
class Reading:
    """What a sensor has measured."""

    sensor: str
    value: float
    unit: str = "K"
    tags: tuple[str, ...] = ()


READING = Reading("sensor-17", 293.5, "K", ("roof", "north"))
DECODER = msgspec.json.Decoder(Reading)
ENVELOPE = encode_event(eda.Event(data=READING, aggregate="sensor-17"), "vfO6yHd0tcV6S8xvXGj2mK", "gateway", 5)


def typed_event() -> eda.Event:
    return eda.Event(data=READING, aggregate="sensor-17")


def untyped_event() -> eda.Event:
    return eda.Event(type="reading-recorded", schema="2", data=eda.JSON(READING), aggregate="sensor-17")


def typed_decode() -> Any:
    return decode_event(ENVELOPE).payload()


def untyped_decode() -> Any:
    return DECODER.decode(decode_event(ENVELOPE).data.encode())


def _rounds(*functions: Callable[[], Any]) -> dict[str, Maker]:
    return {function.__name__: lambda function=function: Round(function) for function in functions}  # type: ignore[misc]


CONTENDERS = _rounds(typed_event, untyped_event, typed_decode, untyped_decode)
