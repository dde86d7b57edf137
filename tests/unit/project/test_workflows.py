"""The workflows: each file, target, extra and job that they name exists, and each action is pinned."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Folders and files that a step may name before a build has made them.
MADE = ("build/", "dist/", "dist", "wheelhouse/")


def jobs_of(path: Path) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return jobs


def steps_of(path: Path) -> Iterator[dict[str, Any]]:
    for job in jobs_of(path).values():
        yield from job.get("steps", ())


def targets_in(command: str) -> set[str]:
    words = [word for line in re.findall(r"\bmake ([^&|;\n]*)", command) for word in shlex.split(line)]
    return {word for word in words if "=" not in word}


def files_in(command: str) -> set[str]:
    """Return the words of a command that look like a path of this repository."""
    found = set(re.findall(r"(?<![\w$./-])((?:\.ci|\.github|tests|bench|src|docs)(?:/[\w./-]+)?)(?![\w/.-])", command))
    return {path for path in found if not path.startswith(MADE)}


def extras_in(command: str) -> set[str]:
    return {extra for names in re.findall(r"(?:\.|eda-fast)\[([\w,-]+)\]", command) for extra in names.split(",")}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_steps_when_read_name_targets_files_and_extras_that_exist(path: Path) -> None:
    for step in steps_of(path):
        command = step.get("run", "")
        assert targets_in(command) <= TARGETS, command
        assert [name for name in files_in(command) if not (ROOT / name).exists()] == [], command
        assert extras_in(command) <= set(PROJECT["optional-dependencies"]), command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_when_read_are_pinned_by_commit_or_are_workflows_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert uses
    for action, rest in uses:
        if action.startswith("./"):
            assert (ROOT / action).is_file(), action
        else:
            assert re.fullmatch(r"[\w-]+/[\w.-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", rest), f"{action} does not say which version it is"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_when_read_need_jobs_that_exist_and_have_a_time_limit(path: Path) -> None:
    jobs = jobs_of(path)
    for name, job in jobs.items():
        needs = job.get("needs", [])
        assert ({needs} if isinstance(needs, str) else set(needs)) <= set(jobs), name
        assert "uses" in job or job["timeout-minutes"] <= 90, name


def test_publishing_when_read_needs_tests_gates_and_wheels_of_the_same_commit() -> None:
    jobs = jobs_of(ROOT / ".github" / "workflows" / "release.yml")
    publish = jobs["publish"]
    assert {jobs[name]["uses"].rpartition("/")[2] for name in publish["needs"]} == {"ci.yml", "bench.yml", "wheels.yml"}
    assert publish["permissions"]["id-token"] == "write"
    assert any("gh-action-pypi-publish" in step["uses"] for step in publish["steps"])
    assert any("actions/attest@" in step["uses"] for step in publish["steps"])


def test_wheels_when_a_pull_request_touches_the_sources_are_built() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as True.
    assert "src/**" in workflow[True]["pull_request"]["paths"]


def test_steps_parsers_when_given_wrong_names_find_them() -> None:
    assert targets_in("make test PYTHON=python && make nonsense ARGS='x'") == {"test", "nonsense"}
    assert files_in("python .ci/none.py tests/unit $HOME/tests build/x") == {".ci/none.py", "tests/unit"}
    assert extras_in("pip install -e '.[test,none]' 'eda-fast[cli]'") == {"test", "none", "cli"}


def test_classifiers_when_read_are_those_whose_tests_run() -> None:
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    pythons = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)}
    matrix = next(
        job["strategy"]["matrix"] for job in jobs_of(ROOT / ".github/workflows/ci.yml").values() if "strategy" in job
    )
    assert pythons == set(matrix["python"])
    assert "windows-latest" in ci
    assert "macos-latest" in ci
