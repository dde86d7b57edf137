"""What inspect.signature, help and editors show of the public names: signatures, texts, and the types in them."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

import eda

PACKAGE = Path(eda.__file__).parent
STUBBED = sorted(
    {
        name
        for name in eda._MODULE_OF.values()
        if (PACKAGE.parent / name.replace(".", "/")).with_suffix(".pyi").is_file()
    }
)
# Users never make these themselves, so their constructors are not public.
MADE_BY_EDA = {"Conn", "Events", "Projection", "Publisher", "Relay", "Streams", "Subscription", "View"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_of(module: str) -> Path:
    """Return the file in which a type checker reads the module: its stub, if it is compiled."""
    path = (PACKAGE.parent / module.replace(".", "/")).with_suffix(".pyi")
    return path if path.is_file() else path.with_suffix(".py")


def tree_of(module: str) -> ast.Module:
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


def definition_of(name: str) -> ast.ClassDef | Function | ast.AnnAssign:
    """Return where a public name is defined."""
    for node in tree_of(eda._MODULE_OF[name]).body:
        if isinstance(node, ast.ClassDef | Function) and node.name == name:
            return node
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return node
    raise AssertionError(f"{name} is not defined in {eda._MODULE_OF[name]}")


# --- compiled modules and their stubs --------------------------------------------------------------------------------


def compiled() -> Iterator[tuple[str, object, ast.ClassDef | Function]]:
    """Yield every public class and function of the compiled modules, and every member: its name, it, its stub."""
    for name in eda.__all__:
        if eda._MODULE_OF[name] not in STUBBED:
            continue
        node = definition_of(name)
        assert isinstance(node, ast.ClassDef | Function)
        yield name, getattr(eda, name), node
        for member in first_definitions(node) if isinstance(node, ast.ClassDef) else ():
            if member.name == "__init__" or not member.name.startswith("_"):
                yield f"{name}.{member.name}", inspect.getattr_static(getattr(eda, name), member.name), member


def first_definitions(node: ast.ClassDef) -> Iterator[Function]:
    """Yield the methods and properties of a class; of an overloaded one the first definition, which has the text."""
    seen = set()
    for member in node.body:
        if isinstance(member, Function) and member.name not in seen:
            seen.add(member.name)
            yield member


def is_property(node: ast.ClassDef | Function) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list)


COMPILED = {name: (value, node) for name, value, node in compiled()}


def test_compiled_names_when_collected_are_those_of_the_front_door() -> None:
    assert {"Data", "Event", "JSON", "Data.type", "Data.decode", "Event.__init__", "Event.replace"} <= set(COMPILED)
    assert {"eda._data", "eda._event"} <= set(STUBBED)


@pytest.mark.parametrize("name", eda.__all__)
def test_public_class_of_a_compiled_module_when_read_has_the_members_of_its_stub(name: str) -> None:
    if eda._MODULE_OF[name] not in STUBBED or not isinstance(getattr(eda, name), type):
        return
    there = {member for member in vars(getattr(eda, name)) if not member.startswith("_")}
    assert there == {each.partition(".")[2] for each in COMPILED if each.startswith(f"{name}.")} - {"__init__"}


@pytest.mark.parametrize("name", COMPILED)
def test_docstring_when_help_shows_it_is_the_one_of_the_stub(name: str) -> None:
    value, node = COMPILED[name]
    text = inspect.getdoc(value)
    assert text
    assert text == ast.get_docstring(node)


@pytest.mark.parametrize("name", [name for name, (_, node) in COMPILED.items() if not is_property(node)])
def test_signature_when_inspected_is_the_one_of_the_stub(name: str) -> None:
    _, node = COMPILED[name]
    kind, _, method = name.partition(".")
    value = getattr(eda, kind)
    if isinstance(node, ast.ClassDef):  # the signature of a class is the one of its __init__
        name += ".__init__"
        if name not in COMPILED:
            return
        node = COMPILED[name][1]
        assert isinstance(node, Function)
    elif method:
        value = getattr(value, method)
    shown = list(inspect.signature(value).parameters.values())
    shown = shown[1:] if shown[0].name == "self" else shown
    written = parameters_of(node)
    written = written[1:] if written[0][0] in ("self", "cls") else written
    if is_overloaded(node):  # each definition in the stub says which combination there is
        every = [parameters_of(each)[1:] for each in overloads_of(name)]
        assert [parameter.name for parameter in shown] == [each for each, _, _ in max(every, key=len)]
    elif any(parameter.kind is parameter.VAR_KEYWORD for parameter in shown):
        # The stub names the keywords, so that an editor completes them.
        assert len(shown) == 1
        assert {kind for _, kind, _ in written} == {inspect.Parameter.KEYWORD_ONLY}
    else:
        assert [(each.name, each.kind, each.default) for each in shown] == written


def is_overloaded(node: Function) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)


def overloads_of(name: str) -> list[Function]:
    kind, _, method = name.partition(".")
    node = definition_of(kind)
    assert isinstance(node, ast.ClassDef)
    return [each for each in node.body if isinstance(each, Function) and each.name == method]


def parameters_of(node: Function) -> list[tuple[str, Any, Any]]:
    """Return the name, kind and default of each parameter."""
    kinds, empty, arguments = inspect.Parameter, inspect.Parameter.empty, node.args
    positional = [
        *((each, kinds.POSITIONAL_ONLY) for each in arguments.posonlyargs),
        *((each, kinds.POSITIONAL_OR_KEYWORD) for each in arguments.args),
    ]
    n_required = len(positional) - len(arguments.defaults)
    defaults = [*([None] * n_required), *arguments.defaults]
    found = [
        (each.arg, kind, empty if default is None else ast.literal_eval(default))
        for (each, kind), default in zip(positional, defaults, strict=True)
    ]
    if arguments.vararg is not None:
        found.append((arguments.vararg.arg, kinds.VAR_POSITIONAL, empty))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append((each.arg, kinds.KEYWORD_ONLY, empty if default is None else ast.literal_eval(default)))
    if arguments.kwarg is not None:
        found.append((arguments.kwarg.arg, kinds.VAR_KEYWORD, empty))
    return found


# --- types that signatures mention -----------------------------------------------------------------------------------


def annotations_of(name: str) -> Iterator[tuple[str, ast.expr]]:
    """Yield each annotation of a public name and of its public members, with where it is."""
    node = definition_of(name)
    if isinstance(node, ast.AnnAssign):  # a type alias
        if node.value is not None:
            yield name, node.value
    elif isinstance(node, Function):
        yield from annotations_of_function(name, node)
    else:
        for member in [*inherited_by(node, eda._MODULE_OF[name]), *node.body]:
            if isinstance(member, Function):
                yield from annotations_of_member(name, member)
            elif isinstance(member, ast.AnnAssign) and not ast.unparse(member.target).startswith("_"):
                yield f"{name}.{ast.unparse(member.target)}", member.annotation


def inherited_by(node: ast.ClassDef, module: str) -> Iterator[ast.stmt]:
    """Yield the statements of the private bases of a class that are in the same module."""
    names = {base.id for base in node.bases if isinstance(base, ast.Name) and base.id.startswith("_")}
    for base in tree_of(module).body:
        if isinstance(base, ast.ClassDef) and base.name in names:
            yield from inherited_by(base, module)
            yield from base.body


def annotations_of_member(name: str, member: Function) -> Iterator[tuple[str, ast.expr]]:
    where = f"{name}.{member.name}"
    if member.name == "__init__":
        for statement in ast.walk(member):
            if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target).startswith("self."):
                attribute = ast.unparse(statement.target).removeprefix("self.")
                if not attribute.startswith("_"):
                    yield f"{name}.{attribute}", statement.annotation
        if name in MADE_BY_EDA:
            return
    if member.name.startswith("__") or not member.name.startswith("_"):
        yield from annotations_of_function(where, member)


def annotations_of_function(where: str, node: Function) -> Iterator[tuple[str, ast.expr]]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    for annotation in [*(each.annotation for each in every if each is not None), node.returns]:
        if annotation is not None:
            yield where, annotation


def types_of_eda(module: str) -> dict[str, str]:
    """Return the names of a module that stand for types of eda, each with the module that defines it."""
    found = {}
    for node in tree_of(module).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "eda":
            found |= {alias.asname or alias.name: str(node.module) for alias in node.names}
        elif isinstance(node, ast.ClassDef):
            found[node.name] = module
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = module
        elif isinstance(node, ast.Assign):
            found |= {each.id: module for each in node.targets if isinstance(each, ast.Name)}
    return {name: origin for name, origin in found.items() if not is_type_variable(origin, name)}


def is_type_variable(module: str, name: str) -> bool:
    value = getattr(importlib.import_module(module), name, None)
    return value is None or isinstance(value, TypeVar | ParamSpec)


@pytest.mark.parametrize("name", eda.__all__)
def test_types_when_a_public_signature_mentions_them_are_exported(name: str) -> None:
    of_eda = types_of_eda(eda._MODULE_OF[name])
    hidden = {
        f"{where}: {mentioned.id}"
        for where, annotation in annotations_of(name)
        for mentioned in ast.walk(annotation)
        if isinstance(mentioned, ast.Name) and mentioned.id in of_eda
        if eda._MODULE_OF.get(mentioned.id) != of_eda[mentioned.id]
    }
    assert sorted(hidden) == []


def test_annotations_when_collected_are_those_of_methods_properties_and_attributes() -> None:
    found = {where for name in eda.__all__ for where, _ in annotations_of(name)}
    expected = {
        *("Conn.subscribe", "Conn.streams", "Conn.client", "Event.data", "Event.__init__", "Mode", "connect"),
        *("StreamInfo.options", "Events.__anext__", "Subscription.options", "EventsKeywords.retry"),
    }
    assert sorted(expected - found) == []
