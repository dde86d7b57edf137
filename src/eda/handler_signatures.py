"""How a router or a decider calls the functions of users, and for which payload classes, as their signatures say."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Collection, Iterable, Mapping, MutableSequence, Reversible, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ForwardRef, NewType, TypeVar, Union, get_args, get_origin

from eda._event import Event
from eda.callables import AWAITED
from eda.errors import ConfigError
from eda.handlers import check_callable, shown_handler
from eda.typed.registry import payload_class_of

__all__ = [
    "HandlerSignature",
    "Unresolved",
    "accepts",
    "declared_classes",
    "members_of",
    "named_classes",
    "names_classes",
    "read_parameters",
    "read_signature",
    "refuse_payload_handler",
    "resolve_annotation",
    "shown_annotation",
]

# An annotation with one of these types asks for a list of payloads, or of events.
_LISTS = (list, MutableSequence, Sequence, Reversible, Collection, Iterable)

_Parameter = inspect.Parameter
_POSITIONAL = (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class HandlerSignature:
    """How a handler is called.

    `takes_event`: with the event as its second argument. `takes_list`: with a list of payloads, and a list of events.
    `annotation`: of the payload, or of the list's items; `Any` if there is none. `takes_tx`: with the transaction of a
    projection as its last argument.
    """

    takes_event: bool
    takes_list: bool
    annotation: Any
    takes_tx: bool = False


class Unresolved(Exception):
    """An annotation of a handler that can't be resolved, perhaps because a name in it is not defined yet."""


def read_signature(handler: Any, local_names: Mapping[str, Any] | None, *, of_payloads: bool) -> HandlerSignature:
    """Return how a handler is called.

    `local_names` are names that annotations may use besides the globals of the handler. `of_payloads`: the handler
    takes a payload and, if it wants, the event; otherwise it takes an event only.

    Raises ConfigError for a handler that can't be called like this, and Unresolved if the annotation of the first
    parameter can't be resolved, because it says whether the handler takes lists.
    """
    name = shown_handler(handler)
    check_callable(handler, name)
    if type(handler) in AWAITED:
        raise _refused(f"handler is a {type(handler).__name__}: a router can't be the handler of another router")
    first, second, takes_tx = _arguments(handler, name, of_payloads=of_payloads)
    annotation = resolve_annotation(first.annotation, handler, local_names)
    takes_list, item = _item_of(annotation, name, first)
    if second is not None:
        _check_event(second, handler, local_names, name, takes_list=takes_list)
    if not of_payloads and not accepts(item, Event):
        raise _refused(
            f"handler {name} must take an eda.Event, but {first.name!r} is annotated {shown_annotation(annotation)}"
        )
    return HandlerSignature(second is not None, takes_list, item, takes_tx)


def read_parameters(function: Any, argument: str, expected: str, n: int) -> tuple[list[inspect.Parameter], Any]:
    """Return the parameters and the return annotation of a function that is called with `n` positional arguments.

    `argument` is the user's name for the function, and `expected` says what the function must take. Raises ConfigError
    for a function that can't be called like this.
    """
    name = shown_handler(function)
    signature = _signature_of(function, name, argument)
    problem = f"{argument} {name}{signature} must take {expected}"
    positional = [each for each in signature.parameters.values() if each.kind in _POSITIONAL]
    rest = [each for each in signature.parameters.values() if each.kind is _Parameter.VAR_POSITIONAL]
    needed = [each for each in positional if each.default is _Parameter.empty]
    named = [
        each.name
        for each in signature.parameters.values()
        if each.kind is _Parameter.KEYWORD_ONLY and each.default is _Parameter.empty
    ]
    if named:
        raise ConfigError(f"{problem}; it needs {', '.join(map(repr, named))} as a keyword", argument=argument)
    slots = [*positional, *rest * n]
    if len(needed) > n or len(slots) < n:
        n_taken = len(needed) if len(needed) > n else len(slots)
        hint = ""
        if len(needed) == n + 1 and needed[0].name in ("self", "cls"):
            hint = ": it is a method without its object, so give the bound method"
        raise ConfigError(
            f"{problem}; it {'needs' if len(needed) > n else 'takes'} {n_taken} argument{'s' * (n_taken != 1)}{hint}",
            argument=argument,
        )
    return slots[:n], signature.return_annotation


def refuse_payload_handler(handler: Any) -> None:
    """Raise ConfigError for the handler of a subscription that takes payloads, as its annotation says, and no events.

    A handler that can't be inspected passes, and so does a decorated function: its annotations may be those of the
    function that it calls.
    """
    if hasattr(handler, "__wrapped__"):
        return
    try:
        first = next(iter(_inspected(handler, "", follow_wrapped=False).parameters.values()), None)
        members = () if first is None else members_of(resolve_annotation(first.annotation, handler, None))
    except (ConfigError, Unresolved):
        return
    classes = [each for member in members for item in _items(member) or (member,) for each in members_of(item)]
    payloads = [each.__qualname__ for each in classes if isinstance(each, type) and payload_class_of(each) is not None]
    if payloads and not any(_accepts(each, Event) for each in classes):
        raise _refused(
            f"handler {shown_handler(handler)} takes payloads, {', '.join(payloads)}, but a subscription passes "
            "events: register it with @router.on, and subscribe the router"
        )


def names_classes(value: Any) -> bool:
    """Return whether a value stands for one or several classes, and is not a handler."""
    is_form = isinstance(value, type | types.UnionType | TypeVar | NewType) or get_origin(value) is not None
    return is_form or hasattr(value, "__value__")


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, without duplicates; the annotation itself if it is no union.

    `Annotated` and aliases are replaced by the types that they stand for. Evaluating an alias may raise any error.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return members_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(dict.fromkeys(each for member in get_args(annotation) for each in members_of(member)))
    if isinstance(annotation, TypeVar):
        bounds = annotation.__constraints__ or (annotation.__bound__ or Any,)
        return tuple(dict.fromkeys(each for bound in bounds for each in members_of(bound)))
    if isinstance(annotation, NewType):
        return members_of(annotation.__supertype__)
    if not isinstance(annotation, type) and hasattr(annotation, "__value__"):  # `type Name = …`, since Python 3.12
        return members_of(annotation.__value__)
    return (annotation,)


def named_classes(annotation: Any, name: str) -> tuple[type[Any], ...]:
    """Return the payload classes that the annotation of a handler names. Raises ConfigError if it names none."""
    members = members_of(annotation)
    if any(member in (object, Any) for member in members):
        raise ConfigError(
            f"handler {name} names no payload class: annotate its first parameter, or write @router.on(OrderPaid)",
            argument="handler",
        )
    return declared_classes(members, f"handler {name}: ")


def declared_classes(given: Iterable[Any], where: str) -> tuple[type[Any], ...]:
    """Return the payload classes among `given`, unions taken apart. Raises ConfigError for anything else."""
    classes: list[type[Any]] = []
    for cls in [member for each in given for member in members_of(each)]:
        if not isinstance(cls, type) or payload_class_of(cls) is None:
            shown = cls.__qualname__ if isinstance(cls, type) else repr(cls)
            hint = ": write @eda.payload(...) above it" if isinstance(cls, type) else ""
            raise ConfigError(f"{where}{shown} is no payload class{hint}", argument="classes")
        if cls not in classes:
            classes.append(cls)
    return tuple(classes)


def accepts(annotation: Any, cls: type) -> bool:
    """Return whether an argument with this annotation may be an instance of `cls`. An unclear annotation accepts it."""
    return any(_accepts(member, cls) for member in members_of(annotation))


# --- parameters ------------------------------------------------------------------------------------------------------


def _arguments(handler: Any, name: str, *, of_payloads: bool) -> tuple[_Parameter, _Parameter | None, bool]:
    """Return the parameters that get the payload and the event (or None), and whether another one, `tx`, follows."""
    signature = _signature_of(handler, name)
    expected = (
        "its payload and, if it wants, the event: (order, event) or (order)"
        if of_payloads
        else "one argument, an event"
    )
    problem = f"handler {name}{signature} must take {expected}"
    positional = [each for each in signature.parameters.values() if each.kind in _POSITIONAL]
    rest = [each for each in signature.parameters.values() if each.kind is _Parameter.VAR_POSITIONAL]
    needed = [each for each in positional if each.default is _Parameter.empty]
    takes_tx = len(positional) > 1 and positional[-1].name == "tx" and positional[-1] in needed
    if takes_tx:
        needed.remove(positional.pop())
    if positional and positional[0].name in ("self", "cls") and positional[0].annotation is _Parameter.empty:
        raise _refused(
            f"handler {name} is a method without its object: register the bound method, as in "
            "`router.on(OrderPaid)(self.paid)`"
        )
    most = 2 if of_payloads else 1
    named = [
        each.name
        for each in signature.parameters.values()
        if each.kind is _Parameter.KEYWORD_ONLY and each.default is _Parameter.empty
    ]
    if named:
        raise _refused(f"{problem}; it needs {', '.join(map(repr, named))} as a keyword")
    if len(needed) > most:
        raise _refused(f"{problem}; it needs {len(needed)} arguments")
    slots = [*positional, *rest * most]
    if not slots:
        raise _refused(f"{problem}; it takes no positional argument")
    if not of_payloads:
        return slots[0], None, takes_tx
    second = slots[1] if len(slots) > 1 else None
    if second is not None and (second in needed or second in rest or _is_for_event(second)):
        return slots[0], second, takes_tx
    if not isinstance(handler, functools.partial):  # what a partial binds by keyword is a parameter with a default
        for each in signature.parameters.values():
            if each.kind in (*_POSITIONAL, _Parameter.KEYWORD_ONLY) and each is not slots[0] and _is_for_event(each):
                raise _refused(f"{problem}; {each.name!r} would never get the event, because it is not the second one")
    return slots[0], None, takes_tx


def _is_for_event(parameter: _Parameter) -> bool:
    """Return whether a parameter with a default is meant for the event, and not for something that the user binds."""
    if parameter.name in ("event", "events"):
        return True
    annotation = parameter.annotation
    if isinstance(annotation, str):
        return "Event" in annotation.replace("[", " ").replace("]", " ").replace(".", " ").split()
    return Event in members_of(annotation)


def _signature_of(handler: Any, name: str, argument: str = "handler") -> inspect.Signature:
    """Return the signature of the outer function; if that takes any arguments, of the function that it decorates."""
    outer = _inspected(handler, name, argument, follow_wrapped=False)
    if any(each.kind is _Parameter.VAR_POSITIONAL for each in outer.parameters.values()):
        return _inspected(handler, name, argument, follow_wrapped=True)
    return outer


def _inspected(handler: Any, name: str, argument: str = "handler", *, follow_wrapped: bool) -> inspect.Signature:
    options: dict[str, Any] = {"follow_wrapped": follow_wrapped}
    if sys.version_info >= (3, 14):  # otherwise an annotation with a name that is not defined yet raises NameError
        import annotationlib

        options["annotation_format"] = annotationlib.Format.FORWARDREF
    try:
        return inspect.signature(handler, **options)
    except Exception as error:
        message = f"the signature of {argument} {name} can't be read ({error}): call it from a function that has one"
        raise ConfigError(message, argument=argument) from error


# --- annotations -----------------------------------------------------------------------------------------------------


def resolve_annotation(annotation: Any, handler: Any, local_names: Mapping[str, Any] | None) -> Any:
    """Return an annotation without strings and forward references; `Any` if there is none. Raises Unresolved."""
    if annotation is _Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        found = typing.get_type_hints(holder, _globals_of(handler), dict(local_names or {}), include_extras=True)["it"]
        members_of(found)  # evaluates aliases
    except Exception as error:
        raise Unresolved(f"its annotation {shown_annotation(annotation)} can't be resolved: {error}") from error
    return found


def _globals_of(handler: Any) -> dict[str, Any]:
    """Return the names with which the annotations of a handler were written."""
    function = handler
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        elif not inspect.isroutine(function) and not inspect.isclass(function):
            function = type(function).__call__
            if not inspect.isfunction(function):
                return {}
        else:
            found: dict[str, Any] = getattr(function, "__globals__", {})
            return found


def _item_of(annotation: Any, name: str, parameter: _Parameter) -> tuple[bool, Any]:
    """Return whether an annotation is that of a list, and the annotation of the list's items, else itself."""
    members = [each for each in members_of(annotation) if each is not type(None)]
    items = [_items(each) for each in members]
    if not any(items):
        return False, annotation
    if len(members) > 1:
        raise _refused(
            f"handler {name}: {parameter.name!r} is annotated {shown_annotation(annotation)}; write one list of a "
            "union, such as list[A | B]"
        )
    return True, next(each[0] for each in items if each)


def _items(annotation: Any) -> tuple[Any, ...] | None:
    """Return the annotation of a list's items; None if the annotation is not that of a list."""
    if annotation in _LISTS:
        return (Any,)
    if get_origin(annotation) not in _LISTS:
        return None
    return get_args(annotation)[:1] or (Any,)


def _check_event(
    parameter: _Parameter, handler: Any, local_names: Mapping[str, Any] | None, name: str, *, takes_list: bool
) -> None:
    """Raise ConfigError if the annotation of the second parameter does not fit an event, or a list of events."""
    try:
        annotation = resolve_annotation(parameter.annotation, handler, local_names)
    except Unresolved:
        return  # `Event` is often imported for type checkers only
    expected = "list[eda.Event]" if takes_list else "eda.Event"
    for member in members_of(annotation):
        items = _items(member)
        if member in (Any, object) or (accepts(items[0], Event) if items and takes_list else False):
            return
        if not takes_list and items is None and _accepts(member, Event):
            return
    raise _refused(
        f"handler {name} gets {'a list of events' if takes_list else 'the event'} as its second argument: annotate "
        f"{parameter.name!r} with {expected}, not {shown_annotation(annotation)}"
    )


def _accepts(member: Any, cls: type) -> bool:
    if member is Any or isinstance(member, str | ForwardRef):
        return True
    origin = get_origin(member)
    target = member if origin is None else origin
    if not isinstance(target, type):
        return False
    try:
        return issubclass(cls, target)
    except TypeError:  # a Protocol that can't be checked at run time
        return True


def shown_annotation(annotation: Any) -> str:
    """Return an annotation as it would be written."""
    if isinstance(annotation, str):
        return repr(annotation)
    if isinstance(annotation, ForwardRef):
        return repr(annotation.__forward_arg__)
    return inspect.formatannotation(annotation)


def _refused(message: str) -> ConfigError:
    return ConfigError(message, argument="handler")
