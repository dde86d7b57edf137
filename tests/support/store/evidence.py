"""What proves that the event store kept its promise: the stream's contents against what each process was told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from support.store.accounts import Account, after, chain_of
from support.store.attempts import UNKNOWN, Attempt, Request
from support.store.contents import TOMBSTONE, Message, by_aggregate

__all__ = ["Evidence", "assert_promise", "unsettled"]

WRITES = ("execute", "append")


def assert_promise(
    contents: list[Message], attempts: list[Attempt], *, settled: bool = True, has_batches: bool = True
) -> dict[str, int]:
    """Assert that contents and attempts agree; returns counts. `settled`: each command's outcome is known by now.

    Without `has_batches`, each append of several events must have been refused as not supported.
    """
    evidence = Evidence(contents, attempts, has_batches=has_batches)
    evidence.examine(settled=settled)
    assert not evidence.faults, f"{len(evidence.faults)} faults:\n" + "\n".join(evidence.faults[:20])
    outcomes = Counter(each.outcome for each in attempts if each.request.how in WRITES)
    return {"events": len(contents), "aggregates": len(evidence.histories)} | dict(sorted(outcomes.items()))


def unsettled(attempts: Iterable[Attempt]) -> list[Request]:
    """Return the requests to write whose outcome is not known by any attempt, each once."""
    writes = [each for each in attempts if each.request.how in WRITES]
    known = {(each.request.id, each.request.aggregate) for each in writes if each.outcome != UNKNOWN}
    open_ones = {(each.request.id, each.request.aggregate): each.request for each in writes}
    return [request for command, request in open_ones.items() if command not in known]


class Evidence:
    """Compares contents and attempts; `faults` says what does not agree."""

    def __init__(self, contents: list[Message], attempts: list[Attempt], *, has_batches: bool = True) -> None:
        self.contents = contents
        self.attempts = attempts
        self.has_batches = has_batches
        self.histories = by_aggregate(contents)
        self.forgotten = {name for name, each in self.histories.items() if any(m.type == TOMBSTONE for m in each)}
        self.faults: list[str] = []
        # For each aggregate: its state at each version, and the messages of each command.
        self.states: dict[str, list[Account]] = {}
        self.applied: dict[tuple[str, str], list[Message]] = {}
        # For each forgotten aggregate: which event had which version, as far as anybody was told.
        self.told: dict[tuple[str, int], str] = {}

    def fault(self, text: str, *about: object) -> None:
        self.faults.append(" ".join([text, *map(str, about)]))

    def examine(self, *, settled: bool) -> None:
        self.examine_contents()
        of_command: dict[tuple[str, str], list[Attempt]] = {}
        for attempt in self.attempts:
            if attempt.outcome in ("error", "incomplete"):
                self.fault(f"{attempt.outcome}:", attempt)
            if attempt.outcome == "unsupported" and (self.has_batches or attempt.request.n == 1):
                self.fault("reported as not supported:", attempt)
            if attempt.request.how in WRITES:
                of_command.setdefault((attempt.request.id, attempt.request.aggregate), []).append(attempt)
        for command in self.applied:
            if command not in of_command:
                self.fault("nobody asked for", command)
        for command, attempts in of_command.items():
            self.examine_command(command, attempts, settled=settled)
        self.examine_times()
        for attempt in self.attempts:
            self.examine_answer(attempt)

    # --- the contents alone ------------------------------------------------------------------------------------------

    def examine_contents(self) -> None:
        for event_id, n in Counter(message.id for message in self.contents).items():
            if n > 1:
                self.fault("stored more than once:", event_id)
        for aggregate, history in self.histories.items():
            if aggregate in self.forgotten:
                if [message.type for message in history] != [TOMBSTONE]:
                    self.fault("a forgotten aggregate has more than its tombstone:", aggregate, history[:3])
                if history[-1].data:
                    self.fault("the tombstone has data:", history[-1])
            else:
                self.examine_history(aggregate, history)

    def examine_history(self, aggregate: str, history: list[Message]) -> None:
        versions = [message.version for message in history]
        if versions != list(range(1, len(history) + 1)):
            at = next(i for i, version in enumerate(versions) if version != i + 1)
            self.fault(
                f"{aggregate} has version {versions[at]} where {at + 1} must be:", history[max(0, at - 1) : at + 2]
            )
        states = [Account()]
        for message in history:
            states.append(after(states[-1], message.id, message.data))
        self.states[aggregate] = states
        at = 0
        while at < len(history):
            data = history[at].data
            run = history[at : at + data["k"]]
            command = (data["c"], aggregate)
            if [(message.data["c"], message.data["i"]) for message in run] != [
                (data["c"], i + 1) for i in range(data["k"])
            ]:
                self.fault("not the whole command, or not in place:", run)
                at += 1
                continue
            if run[-1].sequence - run[0].sequence != len(run) - 1:
                self.fault("a command's events are not together in the stream:", run)
            if command in self.applied:
                self.fault("applied twice:", command, run[0])
            if data.get("seen", at) != at:
                self.fault(f"decided on version {data['seen']}, stored as {at + 1}:", run[0])
            if not all(message.id.startswith(f"{data['c']}.") for message in run):
                self.fault("an event id without its command's:", run)
            if len(run) > 1 and not self.has_batches:
                self.fault("several events of one append are stored:", run)
            self.applied[command] = run
            at += len(run)
            if states[at].total < 0:
                self.fault("overdrawn:", run)

    # --- commands ----------------------------------------------------------------------------------------------------

    def examine_command(self, command: tuple[str, str], attempts: list[Attempt], *, settled: bool) -> None:
        outcomes = {attempt.outcome for attempt in attempts}
        if settled and outcomes == {UNKNOWN}:
            self.fault("nobody found out what became of", command)
        if command[1] in self.forgotten:
            return
        run = self.applied.get(command)
        if run and not outcomes & {"done", UNKNOWN}:
            self.fault(f"stored, and reported as {outcomes}:", run[0], attempts[0])
        if run and attempts[0].request.kind != "move":
            self.fault(f"a command of the kind {attempts[0].request.kind!r} stored events:", run[0])
        for attempt in attempts:
            if attempt.outcome == "done" and attempt.request.kind == "move":
                self.examine_done(attempt, run)
            elif attempt.outcome == "done" and attempt.said["ids"]:
                self.fault("stored events that it never decided on:", attempt)
            # Only one version can be the next one: whoever says that it was taken rules out that this command has it.
            fixed = attempt.request.how == "append" and attempt.request.expected not in ("any", "exists")
            if run and attempt.outcome == "conflict" and fixed:
                self.fault("reported as a conflict, and stored:", attempt, run[0])
            if run and attempt.outcome == "config":
                self.fault("reported as a ConfigError, and stored:", attempt, run[0])
        done = [attempt for attempt in attempts if attempt.outcome == "done" and attempt.said["ids"]]
        for attempt in attempts:
            if (
                attempt.outcome != UNKNOWN
                and any(each.end_ns < attempt.begin_ns for each in done)
                and attempt not in done
            ):
                self.fault("acknowledged before, and now reported as", attempt.outcome, attempt)

    def examine_done(self, attempt: Attempt, run: list[Message] | None) -> None:
        said = attempt.said
        if run is None:
            self.fault("acknowledged, and not stored:", attempt)
        elif (said["version"], said["ids"], said["sequences"]) != (
            run[-1].version,
            [message.id for message in run],
            [message.sequence for message in run],
        ):
            self.fault("acknowledged with another result than the contents have:", attempt, run)

    # --- what was read -----------------------------------------------------------------------------------------------

    def examine_times(self) -> None:
        """Nobody is told of less than what had been acknowledged to anybody before it asked."""
        for aggregate in {attempt.request.aggregate for attempt in self.attempts}:
            attempts = [each for each in self.attempts if each.request.aggregate == aggregate]
            acknowledged = sorted(
                (each.end_ns, each.said["version"])
                for each in attempts
                if each.outcome == "done" and each.request.how in WRITES and each.said["ids"]
            )
            forgotten_ns = min(
                (each.end_ns for each in attempts if each.request.how == "forget" and each.outcome == "done"),
                default=None,
            )
            floor = at = 0
            for attempt in sorted(attempts, key=lambda each: each.begin_ns):
                while at < len(acknowledged) and acknowledged[at][0] < attempt.begin_ns:
                    floor = max(floor, acknowledged[at][1])
                    at += 1
                found = attempt.said.get("actual", attempt.said.get("found"))
                if attempt.outcome == "done" and (attempt.request.how, attempt.request.kind) == ("execute", "nothing"):
                    found = attempt.said["version"]
                if attempt.outcome == "refused":
                    self.examine_refused(attempt, floor)
                if found is not None and found < floor:
                    self.fault(f"was told of version {found} when {floor} had been acknowledged:", attempt)
                if forgotten_ns and attempt.begin_ns > forgotten_ns and attempt.request.how != "forget":
                    # A process that has not heard of it yet may still know that it had executed the command before.
                    was_before = len(attempt.said.get("ids", ())) > 0 and self.is_before_tombstone(attempt)
                    if attempt.outcome not in ("forgotten", "config", UNKNOWN) and not was_before:
                        self.fault("the aggregate had been forgotten:", attempt)
                elif attempt.outcome == "forgotten" and aggregate not in self.forgotten:
                    self.fault("nobody has forgotten the aggregate:", attempt)

    def is_before_tombstone(self, attempt: Attempt) -> bool:
        """Return whether the aggregate was forgotten, after the events that were acknowledged."""
        history = self.histories.get(attempt.request.aggregate)
        return bool(history) and attempt.said["version"] < history[-1].version

    def examine_refused(self, attempt: Attempt, floor: int) -> None:
        """The decider refused a state that the aggregate had while it was asked."""
        request = attempt.request
        if request.kind == "move" and request.aggregate not in self.forgotten:
            states = self.states.get(request.aggregate, [Account()])[floor:]
            if all(state.total + request.amount * request.n >= 0 for state in states):
                self.fault("refused on a state that was out of date:", attempt)

    def examine_answer(self, attempt: Attempt) -> None:
        aggregate, said = attempt.request.aggregate, attempt.said
        for version, event_id in zip(_versions(said), said.get("ids", []), strict=False):
            if self.told.setdefault((aggregate, version), event_id) != event_id:
                self.fault(f"version {version} is told to be another event:", attempt)
        if aggregate not in self.forgotten:
            self.examine_found(attempt)

    def examine_found(self, attempt: Attempt) -> None:
        aggregate, said = attempt.request.aggregate, attempt.said
        history = self.histories.get(aggregate, [])
        if (found := said.get("actual", said.get("found", said.get("version")))) is not None and found > len(history):
            self.fault("was told of a version that is not there:", attempt)
            return
        if events := said.get("events"):
            slice_of = history[events["first"] - 1 : events["first"] - 1 + events["n"]] if events["n"] else []
            if not events["contiguous"] or events["chain"] != chain_of(message.id for message in slice_of):
                self.fault("got events that are not those of the contents:", attempt)
        if state := said.get("state"):
            version = state["version"]
            if version > len(history) or state != asdict(self.states[aggregate][version] if history else Account()):
                self.fault("got a state that is not the fold of the contents:", attempt)
            if version < said.get("found", said.get("version", 0)):
                self.fault("got a state that is older than its version:", attempt)
        if attempt.outcome == "conflict":
            self.examine_conflict(attempt)
        elif attempt.request.how in ("load", "history") and attempt.outcome == "done":
            last = history[said["found"] - 1] if said["found"] else None
            if "sequence" in said and said["sequence"] != (last.sequence if last else 0):
                self.fault("got a wrong position:", attempt)
            if said["events"]["n"] and said["events"]["first"] + said["events"]["n"] - 1 != said["found"]:
                self.fault("got events that do not end with the version:", attempt)

    def examine_conflict(self, attempt: Attempt) -> None:
        expected, actual, events = attempt.said["expected"], attempt.said["actual"], attempt.said["events"]
        if attempt.request.how == "append" and expected != attempt.request.expected:
            self.fault("the conflict names another expectation:", attempt)
        is_real = {"new": actual > 0, "exists": actual == 0}.get(str(expected), expected != actual)
        if not is_real:
            self.fault("not a conflict:", attempt)
        begin = expected if isinstance(expected, int) else 0
        if expected != "exists" and begin < actual and (events["first"], events["n"]) != (begin + 1, actual - begin):
            self.fault("the conflict lacks events, or has others:", attempt)


def _versions(said: dict[str, Any]) -> range:
    n = len(said.get("ids", []))
    return range(said["version"] - n + 1, said["version"] + 1) if n else range(0)
