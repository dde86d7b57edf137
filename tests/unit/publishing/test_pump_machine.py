"""eda.publishing.pump_machine: the table of transitions is the documented one, and each of them happens."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eda.publishing.answer_checks import AnswerChecks
from eda.publishing.publisher_options import PublisherOptions
from eda.publishing.pump_machine import TRANSITIONS, PumpMachine, State
from helpers import Logged
from support.publishing.publisher_core import Rig

DESIGN = Path(__file__).resolve().parents[3] / "docs" / "design.md"
LOGGER = logging.getLogger("eda")

Seen = set[tuple[State, State]]


class Machine(PumpMachine):
    """A machine without a server that notes its changes of state."""

    def __init__(self, seen: Seen, mode: Any, **rig: Any) -> None:
        self.seen = seen
        self.rig = Rig(**rig)
        self.wire: Any = SimpleNamespace(loop=asyncio.get_running_loop(), is_up=True)
        options = PublisherOptions(
            mode=mode,
            dedup=True,
            max_pending=1000,
            max_pending_bytes=2**20,
            ack_timeout_s=5.0,
            timeout_s=None,
            on_ack=None,
            on_error=None,
        )
        super().__init__(self.wire, LOGGER, "s", options, AnswerChecks(LOGGER, "s"), lambda: None)
        self.begin(self.rig.core, can_fast=mode == "fast")

    def _change(self, to: State) -> None:
        self.seen.add((self.state, to))
        super()._change(to)


def starting(seen: Seen) -> Machine:
    machine = Machine(seen, "fast")
    machine.rig.accept(2)
    machine.write_waiting()
    assert machine.state is State.STARTING
    return machine


def probing(seen: Seen) -> Machine:
    machine = opened(seen)
    machine.start_over()
    assert machine.state is State.PROBING
    return machine


def opened(seen: Seen) -> Machine:
    machine = Machine(seen, "window")
    machine.rig.accept(2)
    machine.write_waiting()
    assert machine.state is State.OPEN
    return machine


def ending(seen: Seen) -> Machine:
    machine = Machine(seen, "fast")
    machine.rig.accept(1)
    machine.write_waiting()
    assert machine.state is State.ENDING
    return machine


def test_table_when_compared_with_the_docstring_and_the_design_is_the_same() -> None:
    text = " ".join((PumpMachine.__doc__ or "").split())
    described = re.findall(r"- `(\w+)`: [^`]*?Next: ([\w, ]+)\.", text)
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([\w, ]+) \|$", DESIGN.read_text(encoding="utf-8"), re.MULTILINE)
    for found in (described, rows):
        table = {State(state): frozenset(map(State, following.split(", "))) for state, following in found}
        assert table == TRANSITIONS


@pytest.mark.parametrize("reach", [starting, probing, opened, ending])
async def test_machine_when_interrupted_follows_the_table(reach: Callable[[Seen], Machine], logged: Logged) -> None:
    seen: Seen = set()
    reach(seen).start_over()
    reach(seen).start_over(0.001)
    reach(seen).go_down()
    assert all(to in TRANSITIONS[before] for before, to in seen)


async def test_machine_when_taken_through_every_event_makes_every_transition_of_the_table() -> None:
    seen: Seen = set()
    for reach in (starting, probing, opened, ending):
        reach(seen).start_over()
        reach(seen).go_down()
        reach(seen).start_over(60.0)
    paused = opened(seen)
    paused.start_over(60.0)
    paused.leave(State.PAUSING)
    lost = opened(seen)
    lost.start_over(60.0)
    lost.go_down()
    starting(seen).batch_goes_on(10)
    starting(seen).await_end(0.25)
    probing(seen).probe_succeeded()
    flowing = starting(seen)
    flowing.batch_goes_on(10)
    flowing.flush()
    unconnected = Machine(seen, "window")
    unconnected.wire.is_up = False
    unconnected.rig.accept(1)
    unconnected.write_waiting()
    assert seen == {(before, to) for before, following in TRANSITIONS.items() for to in following}


async def test_machine_when_a_change_is_impossible_logs_an_error(logged: Logged) -> None:
    logged.expect("impossible change of state: idle to pausing")
    Machine(set(), "window")._change(State.PAUSING)


@pytest.mark.parametrize(
    ("max_events", "n_accepted", "n_asked", "n_under_way"),
    [
        pytest.param(128, 256, 32, 512, id="full packs"),
        pytest.param(128, 384, 32, 512, id="more of them"),
        pytest.param(16, 160, 256, 4000, id="packs of 16"),
        pytest.param(1000, 2000, 4, 64, id="packs of 1000"),
        pytest.param(10_000, 20_000, 1, 16, id="larger than all that is acknowledged together"),
    ],
)
async def test_machine_when_it_has_packs_asks_for_an_acknowledgement_each_4096_events(
    max_events: int, n_accepted: int, n_asked: int, n_under_way: int
) -> None:
    packs = {"max_events": max_events, "max_pack_bytes": 2**20}
    machine = Machine(set(), "fast", packs=packs, max_pending=65_536, max_bytes=2**30)
    machine.rig.accept(n_accepted)
    machine.write_waiting()
    (first,) = machine.rig.written()
    assert first.reply.split(".")[-5] == f"{n_asked}"
    machine.batch_goes_on(n_asked)
    assert machine.rig.core.limit == n_under_way
