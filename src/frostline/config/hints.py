"""Annotations and defaults, evaluated from their text as far as plain types go.

What a config can hold is numbers, strings, lists and mappings; a type that needs an import of torch to be named cannot
be given there, so a union is read without it and anything else that cannot be read is `Any`.
"""

import ast
import importlib
from types import NoneType
from typing import Annotated, Any, Union

from frostline.config.arguments import nested
from frostline.config.source import Definition, Source, dotted, locate

_LIGHT = {
    "annotated_types",
    "collections",
    "collections.abc",
    "datetime",
    "os",
    "pathlib",
    "typing",
    "typing_extensions",
}
_BUILTINS = {
    kind.__name__: kind
    for kind in (bool, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple, type)
}


class UnreadableError(Exception):
    """The text of an expression does not tell its value."""


def hint_of(annotation: ast.expr | None, source: Source) -> Any:
    """Return the type that an annotation means in a module; `Any` where its text does not tell."""
    if annotation is None:
        return Any
    try:
        return _evaluate(annotation, source)
    except UnreadableError:
        return Any


def value_of(node: ast.expr, source: Source) -> Any:
    """Return the value of a literal, or of a module's constant that is one.

    Raises:
        UnreadableError: The expression is neither.
    """
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        constant = _assigned(node, source)
        if constant is None:
            raise UnreadableError(ast.unparse(node)) from None
        return value_of(*constant)


def _evaluate(node: ast.expr, source: Source) -> Any:
    match node:
        case ast.Constant(value=None):
            return NoneType
        case ast.Constant(value=str(text)):
            return _evaluate(_parsed(text), source)
        case ast.BinOp(op=ast.BitOr()):
            return _union([node.left, node.right], source)
        case ast.Subscript():
            return _subscript(node, source)
        case ast.Name() | ast.Attribute():
            return _named(node, source)
    raise UnreadableError(ast.unparse(node))


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        raise UnreadableError(text) from None


def _named(node: ast.Name | ast.Attribute, source: Source) -> Any:
    path = dotted(node, source)
    if path is None:
        name = node.id if isinstance(node, ast.Name) else ""
        if name not in _BUILTINS:
            raise UnreadableError(ast.unparse(node))
        return _BUILTINS[name]
    module, _, name = path.rpartition(".")
    if module in _LIGHT:
        return getattr(importlib.import_module(module), name)
    if _is_dataclass(path):
        return nested(path)
    alias = _assigned(node, source)
    if alias is None:
        raise UnreadableError(path)
    return _evaluate(*alias)


def _is_dataclass(path: str) -> bool:
    found = locate(path)
    if not isinstance(found, Definition) or not isinstance(found.node, ast.ClassDef):
        return False
    calls = [d.func if isinstance(d, ast.Call) else d for d in found.node.decorator_list]
    return any(dotted(call, found.source) == "dataclasses.dataclass" for call in calls)


def _assigned(node: ast.expr, source: Source) -> tuple[ast.expr, Source] | None:
    """Return the right-hand side of the module-level assignment that a name stands for, and its module."""
    path = dotted(node, source)
    found = locate(path) if path else None
    if not isinstance(found, Definition) or not isinstance(found.node, ast.Assign | ast.AnnAssign):
        return None
    value = found.node.value
    return (value, found.source) if value is not None else None


def _subscript(node: ast.Subscript, source: Source) -> Any:
    generic = _evaluate(node.value, source)
    arguments = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    name = getattr(generic, "__name__", None) or getattr(generic, "_name", None)
    if name == "Literal":
        return generic[tuple(value_of(argument, source) for argument in arguments)]
    if name == "Annotated":
        plain, *bounds = arguments
        return _annotated(_evaluate(plain, source), [_constraint(bound, source) for bound in bounds])
    if name in ("Optional", "Union"):
        return _union([*arguments, *([ast.Constant(None)] if name == "Optional" else [])], source)
    return _container(generic, arguments, source)


def _annotated(plain: Any, bounds: list[Any]) -> Any:
    read = tuple(bound for bound in bounds if bound is not None)
    return Annotated[(plain, *read)] if read else plain


def _union(members: list[ast.expr], source: Source) -> Any:
    readable = []
    for member in members:
        try:
            readable.append(_evaluate(member, source))
        except UnreadableError:
            continue
    unread = len(readable) < len(members)
    if not readable or (unread and readable == [NoneType]):
        raise UnreadableError("union")
    return Union[tuple(readable)]  # noqa: UP007 (its members are known only now)


def _container(generic: Any, arguments: list[ast.expr], source: Source) -> Any:
    if getattr(generic, "__name__", "") in ("Callable", "type"):
        return generic
    return generic[tuple(_item(argument, source) for argument in arguments)]


def _item(node: ast.expr, source: Source) -> Any:
    return ... if isinstance(node, ast.Constant) and node.value is ... else hint_of(node, source)


def _constraint(node: ast.expr, source: Source) -> Any:
    if not isinstance(node, ast.Call) or (dotted(node.func, source) or "").rpartition(".")[0] != "annotated_types":
        return None
    kind = _evaluate(node.func, source)
    keywords = {word.arg: value_of(word.value, source) for word in node.keywords if word.arg}
    return kind(*(value_of(argument, source) for argument in node.args), **keywords)
