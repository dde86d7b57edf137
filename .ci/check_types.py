"""Check what type checkers and editors find out about eda: python .ci/check_types.py

* The stubs agree with the compiled modules (stubtest).
* pyright knows the type of every name that could be imported from eda (--verifytypes).
* mypy and pyright find the errors that are marked in tests/type_checks/uses.py, and no others.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHECKS = Path(__file__).resolve().parents[1] / "tests" / "type_checks"
USES = CHECKS / "uses.py"

Found = dict[int, list[str]]  # the messages of each line with an error


def main() -> int:
    # mypy's checks and pyright's take one core each. Two of pyright's at a time would both install it.
    halves: list[list[Callable[[], list[str]]]] = [[stubtest, check_mypy], [verify_types, check_pyright]]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda checks: [problem for check in checks for problem in check()], halves)
    problems = [problem for half in found for problem in half]
    print(
        "\n".join(problems) or "types: the stubs are right, all types are known, and uses.py has the errors it expects"
    )
    return 1 if problems else 0


def stubtest() -> list[str]:
    """Return what differs between the stubs and the compiled modules."""
    ended = run(
        "mypy.stubtest", "eda", "--concise", "--ignore-unused-allowlist", "--allowlist", str(CHECKS / "stubtest.allow")
    )
    return [f"stubtest: {line}" for line in (ended.stdout + ended.stderr).splitlines()] if ended.returncode else []


def verify_types() -> list[str]:
    """Return the names in eda whose type pyright does not know, or of which it is not sure."""
    report = pyright("--verifytypes", "eda", "--ignoreexternal")
    unknown = [
        f"pyright: the type of {symbol['name']} is not known: {each['message']}"
        for symbol in report["typeCompleteness"]["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
        for each in symbol["diagnostics"]
    ]
    score = report["typeCompleteness"]["completenessScore"]
    return unknown if score == 1 else [*unknown, f"pyright: {score:.1%} of the types are known"]


def check_mypy() -> list[str]:
    """Return how the errors that mypy finds in uses.py differ from the marked ones."""
    return differences("mypy", expected_in(USES.read_text(encoding="utf-8")), mypy_errors(), says_words=True)


def check_pyright() -> list[str]:
    """Return how the errors that pyright finds in uses.py differ from the marked ones."""
    return differences("pyright", expected_in(USES.read_text(encoding="utf-8")), pyright_errors(), says_words=False)


def expected_in(source: str) -> dict[int, str]:
    """Return the words of the error that each marked line expects."""
    lines = enumerate(source.splitlines(), 1)
    return {number: line.partition("  # error: ")[2] for number, line in lines if "  # error: " in line}


def differences(checker: str, expected: Mapping[int, str], found: Found, *, says_words: bool) -> list[str]:
    """Return how the errors that were found differ from the expected ones; `says_words`: also in their words."""
    problems = []
    for line in sorted({*expected, *found}):
        where = f"{checker}: line {line} of {USES.name}"
        if line not in found:
            problems.append(f"{where} should have an error: {expected[line]}")
        elif line not in expected:
            problems.append(f"{where} should have no error: {'; '.join(found[line])}")
        elif says_words and not any(expected[line] in message for message in found[line]):
            problems.append(f"{where} should have an error with {expected[line]!r}, not {'; '.join(found[line])}")
    return problems


def mypy_errors() -> Found:
    ended = run("mypy", "--strict", "--hide-error-context", "--no-pretty", str(USES))
    found: Found = {}
    for line in ended.stdout.splitlines():
        error = re.match(r".*uses\.py:(\d+): error: (.*)", line)
        if error:
            found.setdefault(int(error[1]), []).append(error[2])
        elif ": error: " in line:  # in eda itself
            found.setdefault(0, []).append(line)
    return found if found or not ended.returncode else {0: [ended.stdout + ended.stderr]}


def pyright_errors() -> Found:
    found: Found = {}
    for each in pyright(str(USES))["generalDiagnostics"]:
        if each["severity"] in ("error", "warning"):
            found.setdefault(each["range"]["start"]["line"] + 1, []).append(each["message"])
    return found


def pyright(*arguments: str):
    # pyright looks for eda beside the first `python` in PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = run(
        "pyright", "--outputjson", *arguments, env={**os.environ, "PATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    )
    try:
        return json.loads(ended.stdout[ended.stdout.index("{") :])  # while it is installed, it says so first
    except ValueError:
        raise SystemExit(f"pyright failed: {ended.stdout}{ended.stderr}") from None


def run(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=CHECKS.parents[1], env=env, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
