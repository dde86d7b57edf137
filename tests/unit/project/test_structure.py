"""The structure of src/eda as docs/design.md tells it: levels, sizes, what may be imported where, documented names."""

from __future__ import annotations

import ast
import importlib
import re
import types
from pathlib import Path

import pytest

import eda

SOURCE = Path(__file__).resolve().parents[2] / "src" / "eda"
DESIGN = SOURCE.parents[1] / "docs" / "design.md"

# A module imports only from lower levels. The same table stands in docs/design.md.
LEVELS: list[set[str]] = [
    {"_bytes", "_nuid", "_waits", "deadline", "encodings", "errors", "receipt"},
    {
        *("_data", "_fields", "_texts", "adapting", "addresses", "answers", "callbacks", "cursor_value", "headers"),
        *("labels", "limits", "log", "loops", "options", "patience", "server_config", "server_info"),
        *("shapes", "stats", "subjects", "turns"),
    },
    {"_envelope", "_event", "bucket", "consumer_settings", "cursor_filter", "publisher_options"},
    {"_acks", "_codec", "_frame", "_ledger", "_outbound", "caretaker", "failures", "handlers"},
    {"_client", "_foreign", "_ledger_ordered", "_mailbox", "_send", "_tap", "server"},
    {"_intake", "_pending", "_wire", "cursor_silence"},
    {"_outcome", "_publish", "api", "failure_log", "listening", "replies", "standby"},
    {"_dispatch", "cursor_key", "letters", "lost_batch", "once", "single", "streams", "verdicts"},
    {
        *("atomic", "bare_subject", "cursor_hold", "dead_letters", "kinds", "position", "pulls", "renewal", "replay"),
        *("shared_filter", "steps", "suspects", "targets", "workers"),
    },
    {"cursor", "handling", "lag", "link", "ordered", "pump", "shared_consumer", "watch"},
    {"holder", "publisher_life", "shared"},
    {"parts", "publisher"},
    {"subscription"},
    {"closing", "events"},
    {"lifetime"},
    {"conn"},
    {"dial", "running"},
    {"__init__", "cli"},
]

# Within a level nothing is imported, but for these: the error tree is below even its own level, and the command is a
# user of the package.
WITHIN_A_LEVEL = {("encodings", "errors"), ("cli", "__init__")}

# Cython gives a `cdef readonly` field no place for a docstring.
READONLY_FIELDS = {("Data", "type")}

NOT_IN_COMPILED = {"asyncio", "logging", "socket"}
FEWER_LINES = {".py": 400, ".pyx": 500}

_CIMPORT = re.compile(
    r"^[ \t]*from[ \t]+([\w.]+)[ \t]+c?import[ \t]|^[ \t]*c?import[ \t]+([\w.][\w., \t]*)", re.MULTILINE
)

SOURCES = sorted(path for path in SOURCE.rglob("*") if path.suffix in {".py", ".pyx", ".pxd"})
MODULES = [path for path in SOURCES if path.suffix != ".pxd"]
LEVEL_OF = {module: level for level, modules in enumerate(LEVELS) for module in modules}

in_a_checkout = pytest.mark.skipif(not SOURCE.is_dir(), reason="tests of the wheel have no sources")
pytestmark = in_a_checkout


def name_of(path: Path) -> str:
    """Give the name by which the table knows a file: its own, or that of its package below eda."""
    return path.relative_to(SOURCE).parts[0].removesuffix(path.suffix)


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


def inner_imports_of(path: Path) -> set[str]:
    """Give the modules of eda that a file imports, by the names in the table."""
    inner = set()
    for full in imports_of(path):
        package, *rest = full.split(".")
        if package == "eda":
            inner.add(rest[0] if rest and rest[0] in LEVEL_OF else "__init__")
    return inner - {name_of(path)}


def shown(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_levels_when_compared_with_the_files_name_every_one_once() -> None:
    assert sum(map(len, LEVELS)) == len(LEVEL_OF)
    assert {name_of(path) for path in SOURCES} == set(LEVEL_OF)


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_imports_when_read_lead_to_lower_levels_only(path: Path) -> None:
    name = name_of(path)
    wrong = [
        other
        for other in sorted(inner_imports_of(path))
        if LEVEL_OF[other] >= LEVEL_OF[name] and (name, other) not in WITHIN_A_LEVEL
    ]
    assert not wrong, f"{shown(path)} (level {LEVEL_OF[name]}) imports {wrong}"


def test_exceptions_within_a_level_when_listed_are_used_and_are_within_one() -> None:
    used = {(name_of(path), other) for path in SOURCES for other in inner_imports_of(path)}
    assert used >= WITHIN_A_LEVEL
    assert all(LEVEL_OF[name] == LEVEL_OF[other] for name, other in WITHIN_A_LEVEL)


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
        if not member.startswith("_")
        and isinstance(value, (*kinds, *compiled))
        and (name, member) not in READONLY_FIELDS
    }
    undocumented = [member for member, value in members.items() if not (value.__doc__ or "").strip()]
    assert undocumented == []


def test_design_when_read_has_the_same_levels_and_every_file() -> None:
    text = DESIGN.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
    assert [(int(level), set(re.findall(r"`(\w+?)(?:\.pxd)?`", names))) for level, names in rows] == list(
        enumerate(LEVELS)
    )
    assert [shown(path) for path in MODULES if f"`{shown(path)}`" not in text] == []


def test_import_parsers_when_given_every_form_find_all() -> None:
    python = "import a, b.c\nfrom eda import x\nfrom eda.y import z\ndef f():\n    import d\n"
    assert imports_of_python(python) == {"a", "b.c", "eda.x", "eda.y", "d"}
    cython = '"""\nimport not_me\n"""\ncimport a\nfrom eda._b cimport (\n    c, d,\n)\n'
    cython += "    import e, f as g\nfrom h import i\n"
    assert imports_of_cython(cython) == {"a", "eda._b", "e", "f", "h"}
