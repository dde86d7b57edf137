"""eda._nuid: ids as NATS has them, unique across calls, processes and forks."""

from __future__ import annotations

import os
import string
import subprocess
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from eda import _nuid
from eda._nuid import next_nuid

DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
N_PREFIX = 12


def number_of(nuid: str) -> int:
    """Return the sequence that the last ten characters stand for."""
    number = 0
    for char in nuid[N_PREFIX:]:
        number = number * 62 + DIGITS.index(char)
    return number


def new_prefix() -> str:
    """Return the prefix after a fork, without one."""
    _nuid._forget()  # type: ignore[attr-defined]
    return next_nuid()[:N_PREFIX]


def test_nuid_when_made_has_22_base_62_characters() -> None:
    for _ in range(10_000):
        nuid = next_nuid()
        assert len(nuid) == 22
        assert set(nuid) <= set(DIGITS)


def test_nuid_when_made_is_a_plain_ascii_str() -> None:
    nuid = next_nuid()
    assert type(nuid) is str
    assert nuid.isascii()
    assert nuid == nuid.encode().decode()
    assert hash(nuid) == hash(nuid.encode().decode())


def test_nuids_when_200000_are_made_are_unique() -> None:
    assert len({next_nuid() for _ in range(200_000)}) == 200_000


def test_nuids_when_made_in_turn_share_the_prefix_and_step_evenly() -> None:
    nuids = [next_nuid() for _ in range(1000)]
    assert len({nuid[:N_PREFIX] for nuid in nuids}) == 1
    numbers = [number_of(nuid) for nuid in nuids]
    (step,) = {second - first for first, second in pairwise(numbers)}
    assert 33 <= step < 333
    assert nuids == sorted(nuids)


def test_nuids_when_the_last_four_digits_overflow_step_evenly() -> None:
    numbers = [number_of(next_nuid()) for _ in range(500_000)]  # at a step of 33 or more, at least once
    assert len({number // 62**4 for number in numbers}) >= 2
    assert len({second - first for first, second in pairwise(numbers)}) == 1


def test_nuids_when_many_threads_make_the_first_ones_are_unique() -> None:
    def make(begin: threading.Barrier) -> list[str]:
        begin.wait()
        return [next_nuid() for _ in range(20)]

    with ThreadPoolExecutor(8) as threads:
        for _ in range(100):
            _nuid._forget()  # type: ignore[attr-defined]
            begin = threading.Barrier(8)
            made = [each for found in threads.map(make, [begin] * 8) for each in found]
            assert len(set(made)) == 160


def test_prefixes_when_many_are_drawn_are_unique_and_even() -> None:
    prefixes = [new_prefix() for _ in range(5_000)]
    assert len(set(prefixes)) == len(prefixes)
    counts = Counter("".join(prefixes))
    mean = len(prefixes) * N_PREFIX / 62
    assert set(counts) == set(DIGITS)
    # Six standard deviations: once in millions of runs. A plain modulo of a byte would be off by a quarter.
    assert all(abs(count - mean) < 6 * mean**0.5 for count in counts.values())


def test_prefixes_when_many_are_drawn_are_even_at_every_place() -> None:
    prefixes = [new_prefix() for _ in range(5_000)]
    for place in range(N_PREFIX):
        counts = Counter(prefix[place] for prefix in prefixes)
        assert len(counts) == 62
        assert max(counts.values()) < 2.2 * 5_000 / 62


def test_sequences_when_many_are_begun_differ_in_start_and_step() -> None:
    starts, steps = set(), set()
    for _ in range(2_000):
        _nuid._forget()  # type: ignore[attr-defined]
        first, second = number_of(next_nuid()), number_of(next_nuid())
        starts.add(first)
        steps.add(second - first)
    assert len(starts) == 2_000
    assert len(steps) > 250
    assert min(steps) >= 33
    assert max(steps) < 333
    assert min(starts) < 62**10 / 50
    assert max(starts) > 62**10 * 49 / 50


def test_prefixes_when_processes_start_differ() -> None:
    code = "from eda._nuid import next_nuid; print(next_nuid())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    nuids = {subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) for _ in range(3)}
    assert len({nuid[:N_PREFIX] for nuid in nuids}) == 3


if hasattr(os, "fork"):

    def fork_and_read(n: int) -> list[str]:
        """Return the first n ids of a forked child."""
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            child = os.fork()
        if child == 0:
            try:
                os.write(writer, ",".join(next_nuid() for _ in range(n)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader) as file:
            nuids = file.read().split(",")
        os.waitpid(child, 0)
        return nuids

    def test_prefix_when_forked_is_new_in_the_child_and_kept_in_the_parent() -> None:
        before = next_nuid()
        child = fork_and_read(100)
        after = next_nuid()
        assert len(set(child)) == 100
        assert len({nuid[:N_PREFIX] for nuid in child}) == 1
        assert child[0][:N_PREFIX] != before[:N_PREFIX] == after[:N_PREFIX]

    def test_prefixes_when_forked_twice_differ_between_the_children() -> None:
        next_nuid()
        assert len({fork_and_read(1)[0][:N_PREFIX] for _ in range(4)}) == 4
