"""What valgrind runs: `python -m micro.count area.contender …`. The instructions are read by gate_instructions.py.

Importing takes valgrind longer than all the counting, so it is done once. Then it forks: a process for each CPU, which
share the contenders between them; and of these, for each contender, one for a few rounds, one for many, and one for a
few again. Callgrind writes a total for each. Many less few is what the rounds took: start-up, imports and set-up are in
all three.
Says in a line of JSON per contender which processes to compare.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable

from micro import Round, maker_of

__all__ = ["main"]

N_WARM = 100
N_EVENTS = 2000


def fork(work: Callable[[], object]) -> int:
    """Do the work in a process of its own; returns its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def run_rounds(contender: Round, n_rounds: int) -> None:
    for _ in range(n_rounds):
        contender.run()


def count(name: str) -> dict[str, object]:
    """Have a contender's rounds counted. Raises whatever it fails with."""
    contender = maker_of(name)()
    run_rounds(contender, max(2, N_WARM // contender.n))
    # What is there to stay is no work of the rounds; they pay for collecting what they make.
    gc.collect()
    gc.freeze()
    few, many = 1, 1 + max(1, N_EVENTS // contender.n)
    pids = []
    for n_rounds in (few, many, few):
        pids.append(fork(lambda n_rounds=n_rounds: run_rounds(contender, n_rounds)))  # type: ignore[misc]
        _, status = os.waitpid(pids[-1], 0)
        if status:
            raise RuntimeError(f"it ended with {os.waitstatus_to_exitcode(status)}")
    gc.unfreeze()
    return {"name": name, "pids": pids, "events": (many - few) * contender.n}


def count_all(names: list[str]) -> None:
    """Count each contender; one that fails does not keep the others from being counted."""
    for name in names:
        try:
            line = count(name)
        except Exception as error:
            traceback.print_exc()
            line = {"name": name, "error": f"{type(error).__name__}: {error}"}
        # In one piece: the other processes write to the same pipe.
        os.write(1, json.dumps(line).encode() + b"\n")


def main() -> None:
    """Share the contenders out."""
    names = sys.argv[1:]
    for name in names:
        maker_of(name)
    n_processes = os.cpu_count() or 1
    pids = [fork(lambda i=i: count_all(names[i::n_processes])) for i in range(n_processes)]  # type: ignore[misc]
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
