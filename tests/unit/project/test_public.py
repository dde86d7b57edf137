"""Public are the modules `eda`, `eda.sql` and `eda.testing`, and what their `__all__` names. All others are private."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import eda

ROOT = Path(__file__).resolve().parents[3]
PUBLIC_MODULES = ["eda", "eda.sql", "eda.testing"]

DOCUMENTED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_FOR_USERS = {"design.md", "fuzzing.md"}

in_a_checkout = pytest.mark.skipif(not (ROOT / "src").is_dir(), reason="tests of the wheel have no sources")

PUBLIC_CLASSES = [
    getattr(module, name)
    for module in (eda, eda.sql)
    for name in module.__all__
    if inspect.isclass(getattr(module, name))
]


def inner_bases(cls: type[Any]) -> list[type[Any]]:
    """Return a class and those of its bases that are written in Python files of eda."""
    return [each for each in cls.__mro__ if each.__module__.startswith("eda.") and _source_of(each) is not None]


def _source_of(cls: type[Any]) -> Path | None:
    file = inspect.getmodule(cls).__file__  # type: ignore[union-attr]
    return Path(file) if file is not None and file.endswith(".py") else None


def unannotated_in(cls: type[Any]) -> list[str]:
    """Return the public attributes that the methods of a class set, and that no annotation gives a type."""
    source = _source_of(cls)
    assert source is not None
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
    annotated = {
        node.target.id if isinstance(node.target, ast.Name) else node.target.attr
        for node in ast.walk(found)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name | ast.Attribute)
    }
    assigned = {
        target.attr
        for node in ast.walk(found)
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Name)  # a parameter has a type already
        for target in node.targets
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    }
    return sorted(name for name in assigned - annotated if not name.startswith("_"))


@pytest.mark.parametrize("cls", PUBLIC_CLASSES, ids=lambda cls: cls.__name__)
def test_public_attribute_when_set_has_a_declared_type(cls: type[Any]) -> None:
    inherited = {name for each in inner_bases(cls) for name in inspect.get_annotations(each)}
    assert sorted({name for each in inner_bases(cls) for name in unannotated_in(each)} - inherited) == []


@in_a_checkout
@pytest.mark.parametrize("path", [path for path in DOCUMENTED if path.name not in NOT_FOR_USERS], ids=lambda p: p.name)
def test_document_when_it_imports_names_public_modules_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = re.findall(r"^\s*(?:from|import) (eda[\w.]*)", text, re.MULTILINE)
    assert set(imported) <= set(PUBLIC_MODULES)


def test_module_when_public_has_a_list_of_its_names() -> None:
    for name in PUBLIC_MODULES:
        module = import_module(name)
        assert module.__all__
        assert [each for each in module.__all__ if each.startswith("_") and not each.startswith("__")] == []
