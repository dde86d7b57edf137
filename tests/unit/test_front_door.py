"""eda itself: what `import eda` loads, and public names that are loaded when they are first used."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import os
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import eda

SOURCE = Path(eda.__file__)
HEAVY = {"asyncio", "google.protobuf", "logging", "msgpack", "msgspec", "nats", "ssl", "typing"}


def run(code: str) -> Any:
    """Run code in a new interpreter and return what it prints as JSON."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def loaded_by(code: str) -> set[str]:
    """Return the modules that code loads in a new interpreter."""
    return set(
        run(
            f"import sys; before = set(sys.modules)\n{code}\nloaded = sorted(set(sys.modules) - before)\n"
            "import json; print(json.dumps(loaded))"
        )
    )


# --- what is loaded --------------------------------------------------------------------------------------------------


def test_import_when_nothing_is_used_loads_no_module_but_the_version() -> None:
    assert loaded_by("import eda; assert eda.__version__") == {"eda", "eda._version"}


def test_import_when_an_event_is_used_loads_no_connection() -> None:
    loaded = loaded_by("import eda; eda.Event(type='a', data=eda.JSON(1))")
    assert "eda._event" in loaded
    assert not loaded & {"asyncio", "nats", "ssl", "google.protobuf", "eda.conn"}


def test_import_when_an_error_is_used_loads_nothing_heavy() -> None:
    loaded = loaded_by("import eda; eda.Timeout")
    assert "eda.errors" in loaded
    assert "eda._data" not in loaded
    assert not loaded & HEAVY - {"typing"}


def test_connect_when_first_used_loads_all_that_publishing_and_subscribing_need() -> None:
    loaded = loaded_by("import eda; eda.connect")
    needed = {"nats", "ssl", "eda.publishing.publisher", "eda.subscribing.subscription", "eda.handling._dispatch"}
    assert needed <= loaded


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs the CPU time of a child process")
def test_import_when_timed_costs_little_more_than_an_interpreter() -> None:
    def least_cpu_s(code: str) -> float:
        """Return the least user and system time of several runs: a busy machine adds to some of them only."""
        times = []
        for _ in range(7):
            child = subprocess.Popen([sys.executable, "-c", code])
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            times.append(usage.ru_utime + usage.ru_stime)
        return min(times)

    # It takes 1 ms. asyncio alone would take 25 ms, which is more than the interpreter itself.
    assert least_cpu_s("import eda") < 2 * least_cpu_s("pass") + 0.005


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_when_compared_are_the_same_for_users_type_checkers_and_the_loader() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (for_checkers,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    imports = {}
    for node in for_checkers.body:
        assert isinstance(node, ast.ImportFrom)
        if node.module == "eda":  # a module that is an attribute
            continue
        imports |= {alias.name: node.module for alias in node.names}
    assert imports == eda._MODULE_OF
    assert sorted(imports) == sorted(eda.__all__)


@pytest.mark.parametrize("name", eda.__all__)
def test_name_when_looked_up_is_the_one_of_its_module(name: str) -> None:
    module = importlib.import_module(eda._MODULE_OF[name])
    assert getattr(eda, name) is getattr(module, name)
    assert name in vars(eda)  # so that the next look-up costs nothing more


def test_star_import_when_done_gives_every_public_name() -> None:
    names: dict[str, Any] = {}
    exec("from eda import *", names)
    assert set(names) - {"__builtins__"} == set(eda.__all__)


def test_dir_when_nothing_was_used_has_every_public_name() -> None:
    names = run("import eda, json; print(json.dumps(dir(eda)))")
    assert names == sorted(names)
    assert set(eda.__all__) <= set(names)
    assert {"__doc__", "__file__", "__path__"} <= set(names)


def test_module_when_it_defines_public_names_is_an_attribute() -> None:
    assert run("import eda, json; print(json.dumps([eda.errors.Timeout is eda.Timeout, eda.options.__name__]))") == [
        True,
        "eda.options",
    ]


def test_wrong_name_when_looked_up_is_an_ordinary_error_with_a_suggestion() -> None:
    with pytest.raises(AttributeError, match=r"^module 'eda' has no attribute 'conect'$") as caught:
        eda.conect  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("conect", eda)
    assert not hasattr(eda, "nothing")
    assert getattr(eda, "nothing", 5) == 5
    with pytest.raises(ImportError, match="cannot import name 'conect' from 'eda'"):
        exec("from eda import conect")
    code = "import eda\neda.conect"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stderr
    assert "Did you mean: 'connect'?" in shown


def test_missing_dependency_when_met_is_told_as_such() -> None:
    code = "import sys; sys.modules['nats'] = None\nimport eda, json\n"
    code += "try:\n    eda.connect\nexcept ImportError as error:\n    print(json.dumps(error.name))"
    assert str(run(code)).split(".")[0] == "nats"


# --- tools -----------------------------------------------------------------------------------------------------------


def test_help_when_asked_shows_every_public_name() -> None:
    text = run("import eda, json, pydoc; print(json.dumps(pydoc.plain(pydoc.render_doc(eda))))")
    assert [name for name in eda.__all__ if name not in text] == []
    assert "class Event" in text
    assert pydoc.describe(eda.Event) == "class Event"


def test_inspect_and_doctest_when_used_find_what_is_public() -> None:
    found = {name for name, _ in inspect.getmembers(eda)}
    assert set(eda.__all__) <= found
    assert inspect.getmodule(eda.connect).__name__ == "eda.connecting"  # type: ignore[union-attr]
    assert doctest.testmod(eda).failed == 0


def test_reload_when_done_keeps_the_classes() -> None:
    before = eda.Event, eda.connect
    again = importlib.reload(eda)
    assert again is eda
    assert (eda.Event, eda.connect) == before


def test_names_when_threads_use_them_first_at_the_same_time_are_the_same_objects() -> None:
    code = """
import json, sys, threading
import eda
sys.setswitchinterval(1e-6)
names, n_threads = eda.__all__, 8
start, found, failed = threading.Barrier(n_threads), [], []

def use(first):
    start.wait()
    try:
        order = names[first:] + names[:first]
        found.append({name: id(getattr(eda, name)) for name in order})
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=use, args=(5 * number,)) for number in range(n_threads)]
[each.start() for each in threads]
[each.join() for each in threads]
print(json.dumps([failed, len(found), all(each == found[0] for each in found)]))
"""
    assert run(code) == [[], 8, True]


def test_type_checker_when_it_reads_a_program_knows_the_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy comes with the extra lint")
    program = tmp_path / "program.py"
    program.write_text(
        "import eda\nfrom eda import Event\n\n"
        "async def main() -> None:\n"
        "    async with eda.connect() as conn:\n"
        "        receipt: eda.Receipt = await conn.publish('s', Event(type='a', data=eda.JSON(1)))\n"
        "        number: str = receipt.sequence\n"
        "    eda.conect()\n"
    )
    command = ["--strict", "--no-incremental", "--cache-dir", os.devnull, str(program)]
    # In a process of its own: it would leave a million objects here, through which each later collection must go.
    ended = subprocess.run([sys.executable, "-m", "mypy", *command], capture_output=True, text=True, check=False)
    out, err = ended.stdout, ended.stderr
    errors = [line.partition(": error: ")[2] for line in out.splitlines() if ": error: " in line]
    assert err == ""
    assert len(errors) == 2, out
    assert errors[0].startswith("Incompatible types in assignment")
    assert errors[1].startswith('Module has no attribute "conect"')
