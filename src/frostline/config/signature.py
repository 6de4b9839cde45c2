"""The signature of a class or function named by a dotted path, told without importing it wherever its text tells it."""

import importlib
import pkgutil
from functools import cache
from typing import Any

from frostline.config.arguments import Signature
from frostline.config.from_import import imported_signature
from frostline.config.from_text import read_signature
from frostline.config.hints import UnreadableError
from frostline.config.source import Source, locate, names_in, source_of
from frostline.errors import RequestError
from frostline.nearest import did_you_mean


class TargetError(RequestError):
    """A dotted path names nothing that is there."""


@cache
def signature_of(path: str) -> Signature:
    """Return what the class or function at a dotted path takes.

    Its text is read; where the text does not tell, the module is imported.

    Raises:
        TargetError: There is nothing at this path.
    """
    found = locate(path)
    if found is None and (sentence := _absence(path)):
        raise TargetError(sentence)
    try:
        return read_signature(found, path)
    except UnreadableError:
        return imported_signature(path, _import(path))


def describe(path: str) -> str:
    """Return the first line of the docstring of the class or function at a dotted path.

    Raises:
        TargetError: There is nothing at this path.
    """
    return signature_of(path).summary


def _absence(path: str) -> str | None:
    """Return the sentence about the first part of a path that is not there; None where only an import can tell."""
    parts = path.split(".")
    if len(parts) < 2:
        return f"'{path}' is not the dotted path of a class or function"
    if source_of(parts[0]) is None:
        installed = {module.name for module in pkgutil.iter_modules()}
        return f"there is no module '{parts[0]}'{_suggestion(parts[0], installed)}"
    for end in range(1, len(parts)):
        holder, name = locate(".".join(parts[:end])), parts[end]
        if locate(".".join(parts[: end + 1])) is None:
            return _no_such(holder, name) if isinstance(holder, Source) and _lacks(holder, name) else None
    return None


def _lacks(source: Source, name: str) -> bool:
    """Whether a module surely has no such name."""
    below = [source_of(star) for star in source.stars]
    return source.complete and name not in source.bindings and all(star and _lacks(star, name) for star in below)


def _no_such(source: Source, name: str) -> str:
    return f"{source.name} has no '{name}'{_suggestion(name, names_in(source))}"


def _suggestion(name: str, valid: set[str]) -> str:
    sentence = did_you_mean(name, valid) if valid else ""
    return f"; {sentence}" if sentence.startswith("did") else ""


def _import(path: str) -> Any:
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            holder = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not ".".join(parts[:end]).startswith(error.name or " "):
                raise TargetError(f"{path} needs the module '{error.name}', which is not installed") from error
            continue
        return _function(holder, parts[end:])
    raise TargetError(f"there is no module '{parts[0]}'")


def _function(holder: Any, names: list[str]) -> Any:
    for name in names:
        if not hasattr(holder, name):
            raise TargetError(f"{holder.__name__} has no '{name}'{_suggestion(name, set(dir(holder)))}")
        holder = getattr(holder, name)
    if not callable(holder):
        raise TargetError(f"'{names[-1]}' is not a class or function")
    return holder
