"""Imports the modules of a user that a command names."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import redirect_stdout

from eda.errors import ConfigError

__all__ = ["import_modules"]


def import_modules(names: Iterable[str]) -> None:
    """Import modules by name, from the current directory first. Raises ConfigError if a module can't be imported."""
    directory = os.getcwd()
    if sys.path[:1] not in ([""], [directory]):
        sys.path.insert(0, directory)
    # What the modules print must not get into the output of the command.
    with redirect_stdout(sys.stderr):
        for name in names:
            _import(name, directory)


def _import(name: str, directory: str) -> None:
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{name!r} is not the name of a module. A name is written as in `import shop.events`")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            searched = f"not in {directory} and not among the installed packages"
            raise ConfigError(f"the module {name!r} was not found: {error.name!r} is {searched}") from error
        raise ConfigError(_reason(name, error)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too: a module may call sys.exit
        raise ConfigError(_reason(name, error)) from error


def _reason(name: str, error: BaseException) -> str:
    """Return what the module raised, and the line of the user's code where it did."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_of_user(frame.filename)]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}:{error.lineno})"
    return f"the module {name!r} can't be imported: {type(error).__name__}: {error}{where}"


def _is_of_user(filename: str) -> bool:
    own = os.path.dirname(os.path.dirname(__file__))
    return not filename.startswith(("<", own)) and os.path.basename(os.path.dirname(filename)) != "importlib"
