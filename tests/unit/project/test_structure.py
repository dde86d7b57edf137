"""The structure of src/eda as docs/design.md tells it: wings, order, sizes, imports, documented names."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import sys
import types
from pathlib import Path
from typing import get_origin

import pytest

import eda

SOURCE = Path(__file__).resolve().parents[3] / "src" / "eda"
DESIGN = SOURCE.parents[1] / "docs" / "design.md"
CONTRIBUTING = SOURCE.parents[1] / "CONTRIBUTING.md"

# The files at the top of src/eda, in three groups. A file imports only files that stand before it in its group.
TOP: dict[str, list[str]] = {
    "words": [
        *(
            "_version",
            "_clock",
            "_durations",
            "_steps",
            "server_codes",
            "error_counts",
            "errors",
            "times",
            "amounts",
            "names",
        ),
        "encodings",
        *(
            "compression",
            "callables",
            "callbacks",
            "deadline",
            "life",
            "run_in",
            "headers",
            "recent_problems",
            "log",
            "options",
            "receipt",
        ),
        *("stats", "totals", "store_errors", "projection_errors"),
    ],
    "event": [
        "_bytes",
        "_nuid",
        "_data",
        "_fields",
        "_texts",
        "_payloads",
        "_event",
        "_envelope",
        "_codec",
        "_pack",
        "_json_lines",
        "_stamp",
        "_event_lines",
        "handlers",
        "handler_signatures",
        "_router",
        "keywords",
    ],
    "front door": [
        *("sql", "conn_services", "closing", "connection_log", "lifetime", "health_verdict", "health", "conn_sides"),
        *("conn_admin", "conn", "hooked_conn", "connecting", "running", "__init__"),
    ],
}

# For each group or wing, lowest first: the groups and wings that it may import. docs/design.md has the same table.
MAY_IMPORT: dict[str, list[str]] = {
    "words": [],
    "typed": ["words"],
    "schemas": ["words", "typed"],
    "event": ["words", "typed"],
    "embedded": ["words"],
    "transport": ["words", "event"],
    "jetstream": ["words", "event", "transport"],
    "publishing": ["words", "event", "transport", "jetstream"],
    "cursors": ["words", "event", "transport", "jetstream"],
    "dead_letters": ["words", "event", "transport", "jetstream"],
    "handling": ["words", "event", "transport", "jetstream", "dead_letters"],
    "subscribing": [
        *("words", "event", "transport", "jetstream", "publishing", "cursors", "dead_letters", "handling"),
    ],
    "store": ["words", "typed", "event", "transport", "jetstream", "publishing", "handling"],
    "projections": [
        *("words", "typed", "event", "jetstream", "publishing", "cursors", "handling", "subscribing"),
    ],
    "diagnosis": ["words", "jetstream", "subscribing"],
    "testing": ["words", "event", "store"],
    "middleware": ["words", "event", "publishing", "dead_letters", "subscribing"],
    "telemetry": ["words", "event", "publishing", "dead_letters", "subscribing", "middleware"],
    "front door": [
        *("words", "typed", "event", "embedded", "transport", "jetstream", "publishing", "dead_letters"),
        *("subscribing", "store", "projections", "diagnosis", "testing", "middleware", "telemetry"),
    ],
    "cli": ["words", "schemas", "event", "transport", "front door"],
}

NOT_IN_COMPILED = {"asyncio", "logging", "socket"}
FEWER_LINES = {".py": 400, ".pyx": 500}

_CIMPORT = re.compile(
    r"^[ \t]*from[ \t]+([\w.]+)[ \t]+c?import[ \t]|^[ \t]*c?import[ \t]+([\w.][\w., \t]*)", re.MULTILINE
)

SOURCES = sorted(path for path in SOURCE.rglob("*") if path.suffix in {".py", ".pyx", ".pxd"})
MODULES = [path for path in SOURCES if path.suffix != ".pxd"]
GROUP_OF = {name: group for group, names in TOP.items() for name in names}
WINGS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))

in_a_checkout = pytest.mark.skipif(not SOURCE.is_dir(), reason="tests of the wheel have no sources")
pytestmark = in_a_checkout


def stem_of(path: Path) -> str:
    return path.name.removesuffix(path.suffix)


def group_of(path: Path) -> str:
    """Return the wing of a file, or its group at the top."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else GROUP_OF[stem_of(path)]


def files_in(wing: str) -> list[str]:
    """Return the files that the docstring of a wing lists, in its order."""
    text = ast.get_docstring(ast.parse((SOURCE / wing / "__init__.py").read_text(encoding="utf-8"))) or ""
    return re.findall(r"^    (\w+)  +\S", text, re.MULTILINE)


def imports_of(path: Path) -> set[str]:
    """Give the full names of the modules that a file imports anywhere in it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return imports_of_python(text)
    return imports_of_cython(text)


def imports_of_python(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "eda" else {str(node.module)}
            )
    return found


def imports_of_cython(text: str) -> set[str]:
    found: set[str] = set()
    for origin, names in _CIMPORT.findall(re.sub(r'"""[\s\S]*?"""', "", text)):
        assert not origin.startswith("."), f"a relative import from {origin}"
        found |= {origin} if origin else {name.split()[0] for name in names.split(",") if name.strip()}
    return found


def inner_imports_of(path: Path) -> set[tuple[str, str]]:
    """Return what a file imports of eda, as (group or wing, file)."""
    inner = set()
    for full in imports_of(path):
        package, *rest = full.split(".")
        if package != "eda":
            continue
        if rest and rest[0] in WINGS:
            inner.add((rest[0], rest[1] if len(rest) > 1 else "__init__"))
        else:
            name = rest[0] if rest and rest[0] in GROUP_OF else "__init__"
            inner.add((GROUP_OF[name], name))
    return inner - {(group_of(path), stem_of(path))}


def shown(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def documented_in(module: types.ModuleType) -> set[str]:
    """Return the names of the module whose assignment is followed by a docstring: a type alias has no `__doc__`."""
    body = ast.parse(inspect.getsource(module)).body
    return {
        first.target.id
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name)
        if isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
    }


def test_top_when_compared_with_its_files_names_every_one_once() -> None:
    names = [name for names in TOP.values() for name in names]
    assert sorted(names) == sorted({stem_of(path) for path in SOURCES if path.parent == SOURCE})


@pytest.mark.parametrize("wing", WINGS)
def test_wing_when_its_docstring_is_compared_with_its_files_lists_every_one_once(wing: str) -> None:
    there = {stem_of(path) for path in SOURCES if path.parent.name == wing} - {"__init__", "__main__"}
    assert sorted(files_in(wing)) == sorted(there)


def test_wings_when_put_in_order_import_lower_ones_only() -> None:
    assert set(MAY_IMPORT) == {*TOP, *WINGS}
    order = list(MAY_IMPORT)
    for group, others in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(group) for other in others), group


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_imports_when_read_lead_to_other_wings_as_the_table_says(path: Path) -> None:
    group = group_of(path)
    wrong = sorted(
        f"{other}/{name}" for other, name in inner_imports_of(path) if other not in (group, *MAY_IMPORT[group])
    )
    assert not wrong, f"{shown(path)} ({group}) imports {wrong}"


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_imports_when_they_stay_within_a_wing_lead_to_files_listed_before(path: Path) -> None:
    group = group_of(path)
    order = [*TOP.get(group, ()), *(files_in(group) if group in WINGS else ()), "__init__", "__main__"]
    place = order.index(stem_of(path))
    wrong = sorted(name for other, name in inner_imports_of(path) if other == group and order.index(name) > place)
    assert not wrong, f"{shown(path)} imports {wrong}, which stand after it"


def test_table_when_compared_with_the_imports_allows_none_that_nobody_uses() -> None:
    used = {(group_of(path), other) for path in SOURCES for other, _ in inner_imports_of(path)}
    allowed = {(group, other) for group, others in MAY_IMPORT.items() for other in others}
    assert sorted(allowed - used) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix != ".py"], ids=shown)
def test_compiled_module_when_read_imports_no_loop_no_socket_and_no_logging(path: Path) -> None:
    assert not {full.split(".")[0] for full in imports_of(path)} & NOT_IN_COMPILED


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_module_when_counted_is_short(path: Path) -> None:
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines < FEWER_LINES[path.suffix], f"{shown(path)} has {n_lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_module_when_imported_names_what_is_public_and_has_a_docstring(path: Path) -> None:
    name = ".".join(["eda", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert isinstance(module.__all__, list)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [public for public in module.__all__ if not hasattr(module, public)] == []
    assert module.__doc__


@pytest.mark.parametrize("name", eda.__all__)
def test_public_name_when_looked_up_has_a_docstring(name: str) -> None:
    value = getattr(eda, name)
    if get_origin(value) is not None:
        assert name in documented_in(sys.modules[eda._MODULE_OF[name]])
        return
    assert (value.__doc__ or "").strip()
    # A dataclass without one gets its signature.
    assert not value.__doc__.startswith(f"{name}(")


@pytest.mark.parametrize("name", [name for name in eda.__all__ if isinstance(getattr(eda, name), type)])
def test_public_member_when_looked_up_has_a_docstring(name: str) -> None:
    kinds = (types.FunctionType, property, classmethod, staticmethod)
    compiled = (type(str.join), type(eda.Event.id))  # method and getset descriptors
    members = {
        member: value
        for member, value in vars(getattr(eda, name)).items()
        if not member.startswith("_") and isinstance(value, (*kinds, *compiled))
    }
    undocumented = [member for member, value in members.items() if not (value.__doc__ or "").strip()]
    assert undocumented == []


def test_design_when_read_has_the_same_table_and_every_file_at_the_top() -> None:
    text = DESIGN.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `?([\w ]+?)/?`? \| [^|]+ \| ([^|]*) \|$", text, re.MULTILINE)
    table = {
        group: [name.strip(" `/") for name in others.split(",") if name.strip() != "nothing"] for group, others in rows
    }
    assert {group: table.get(group) for group in MAY_IMPORT} == MAY_IMPORT
    assert [name for group in TOP.values() for name in group if f"`{name}" not in text] == []


def test_design_when_it_names_files_of_wings_those_exist() -> None:
    named = set(re.findall(r"`(\w+)/(\w+)(?:\.pxd)?`", DESIGN.read_text(encoding="utf-8"))) - {("src", "eda")}
    assert len(named) > 20
    there = {(path.parent.name, stem_of(path)) for path in SOURCES}
    assert sorted(named - there) == []


def test_contributing_when_read_lists_every_wing() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|", CONTRIBUTING.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == WINGS


def test_import_parsers_when_given_every_form_find_all() -> None:
    python = "import a, b.c\nfrom eda import x\nfrom eda.y import z\ndef f():\n    import d\n"
    assert imports_of_python(python) == {"a", "b.c", "eda.x", "eda.y", "d"}
    cython = '"""\nimport not_me\n"""\ncimport a\nfrom eda._b cimport (\n    c, d,\n)\n'
    cython += "    import e, f as g\nfrom h import i\n"
    assert imports_of_cython(cython) == {"a", "eda._b", "e", "f", "h"}
