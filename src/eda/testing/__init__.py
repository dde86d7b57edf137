"""Helpers for the tests of programs that use eda: `eda.testing.given` tests a decider without a server.

Files, each after the files that it imports:

    comparing  whether two events are the same for a test, and how they differ
    scenario   `given(decider, events).when(command).then(events)`
"""

from eda.testing.scenario import Decision, Given, given

__all__ = ["Decision", "Given", "given"]
