"""Compare a config with the signatures of the classes that it names, before anything is imported or built.

A default lives in one place, the class; the YAML holds what a run wants to say; this module makes sure that the two
still speak of the same arguments, and says all that is wrong at once.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from frostline.config.arguments import Nested, Signature
from frostline.config.signature import TargetError, signature_of
from frostline.nearest import did_you_mean

HYDRA_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_"})
_WORDS = {"be a valid array": "be a list", "be an object": "be a mapping", "be callable": "be a node with a `_target_`"}


def problems(tree: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Return a sentence for every unknown, missing, ill-typed or out-of-range argument of every `_target_` in a tree.

    Args:
        tree: A resolved config.
        prefix: The key that the tree stands at.
    """
    return list(_problems(tree, prefix))


def join(key: str, *names: object) -> str:
    """Return the dotted key of something below a key."""
    return ".".join(str(part) for part in (key, *names) if part != "")


def _problems(node: object, key: str) -> Iterator[str]:
    if isinstance(node, Mapping) and "_target_" in node:
        yield from _mistakes(node, key)
    for name, child in _children(node):
        yield from _problems(child, join(key, name))


def _children(node: object) -> Iterable[tuple[object, object]]:
    if isinstance(node, Mapping):
        return node.items()
    return enumerate(node) if isinstance(node, list) else ()


def _mistakes(node: Mapping[str, Any], key: str) -> Iterator[str]:
    """Compare one node with the signature of its class."""
    try:
        signature = signature_of(str(node["_target_"]))
    except TargetError as error:
        yield f"{join(key, '_target_')}: {error}"
        return
    given = {str(name): value for name, value in node.items() if name not in HYDRA_KEYS}
    meant = set()
    for name in [] if signature.open else [name for name in given if name not in signature.parameters]:
        suggestion = _suggestion(name, signature)
        meant.add(suggestion.removeprefix("did you mean '").removesuffix("'?"))
        yield f"{join(key, name)}: unknown to {signature.name}; {suggestion}"
    for name in _missing(node, signature):
        if name not in meant:
            yield f"{join(key, name)}: required by {signature.name}"
    for name, parameter in signature.parameters.items():
        if name in given:
            yield from _misfits(given[name], parameter.hint, join(key, name))
            yield from _inner(given[name], parameter.hint, join(key, name))


def _inner(value: object, hint: Any, key: str) -> Iterator[str]:
    """Compare every mapping that stands for the arguments of a class with that class."""
    if isinstance(value, Mapping) and "_target_" not in value and isinstance(hint, type) and issubclass(hint, Nested):
        yield from _mistakes({**value, "_target_": hint.path}, key)
    for part in get_args(hint):
        if isinstance(value, list):
            for place, item in enumerate(value):
                yield from _inner(item, part, join(key, place))
        else:
            yield from _inner(value, part, key)


def _suggestion(name: str, signature: Signature) -> str:
    if not signature.parameters:
        return "it takes nothing"
    return did_you_mean(name, signature.parameters).replace("there are ", "it takes ")


def _missing(node: Mapping[str, Any], signature: Signature) -> Iterator[str]:
    by_position = len(node.get("_args_") or ())
    for name, parameter in list(signature.parameters.items())[by_position:]:
        if parameter.required and name not in node and not node.get("_partial_"):
            yield name


def _misfits(value: object, hint: Any, key: str) -> Iterator[str]:
    """Say where a value does not fit a type.

    A config is what JSON can hold, so JSON's strict rules are the right ones: a list stands for a tuple, a string for a
    path and an integer for a float, but no string for a number and no boolean for an integer.
    """
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{key}: should be a finite number, got {value}"
        return
    if hint is Any or _holds_target(value):  # what a nested node builds is not known before it is built
        return
    try:
        TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except PydanticUserError:  # a type that pydantic does not know
        return
    except ValidationError as error:
        for path, errors in _by_place(error.errors(), value).items():
            yield f"{join(key, *path)}: {_sentence(errors)}, got {_at(value, path)!r}"


def _holds_target(value: object) -> bool:
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    return any(_holds_target(child) for _, child in _children(value))


def _by_place(errors: list[ErrorDetails], value: object) -> dict[tuple[object, ...], list[ErrorDetails]]:
    """Sort the errors by where in the value they are, and keep those that lie deepest.

    Pydantic reports a union once for each member, with the member's name among the places.
    """
    places: dict[tuple[object, ...], list[ErrorDetails]] = {}
    for error in errors:
        places.setdefault(_place(error["loc"], value), []).append(error)
    depth = max(len(place) for place in places)
    return {place: found for place, found in places.items() if len(place) == depth}


def _place(loc: tuple[int | str, ...], value: object) -> tuple[object, ...]:
    path: list[object] = []
    for step in loc:
        children = {str(name): (name, child) for name, child in _children(value)}
        if str(step) in children:
            name, value = children[str(step)]
            path.append(name)
    return tuple(path)


def _at(value: object, path: tuple[object, ...]) -> object:
    for step in path:
        value = dict(_children(value))[step]
    return value


def _sentence(errors: list[ErrorDetails]) -> str:
    """Say what a value should be: in the range that it misses, or where its type is wrong of a type that would do."""
    bounds = [e for e in errors if not e["type"].endswith(("_type", "_parsing", "literal_error", "none_required"))]
    if bounds:
        return f"should {_should(bounds[0])}"
    kinds = dict.fromkeys(_should(error).removeprefix("be ") for error in errors)
    if "a valid number" in kinds:
        kinds.pop("a valid integer", None)
    return f"should be {_either(kinds)}"


def _either(kinds: Iterable[str]) -> str:
    """Join alternatives, each of which may be a list of them already."""
    *most, last = [kind for several in kinds for kind in re.split(", | or ", several)]
    return f"{', '.join(most)} or {last}" if most else last


def _should(error: ErrorDetails) -> str:
    """Return what pydantic says after "should", in the words of a config."""
    if error["type"] == "missing":
        return "have more items"
    said = re.sub(r"^.*?should | after validation|, not \d+$", "", error["msg"])
    return _WORDS.get(said, said)
