"""The signature of a class or function named by a dotted path, read from its text without importing anything."""

import ast
import importlib
import inspect
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeAlias

from frostline.config.hints import UnreadableError, hint_of, value_of
from frostline.config.source import Definition, Source, dotted, locate, names_in, source_of
from frostline.errors import RequestError
from frostline.nearest import did_you_mean

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_WITHOUT_INIT = {"abc.ABC", "typing.Generic", "typing.Protocol", "typing_extensions.Protocol"}


class TargetError(RequestError):
    """A dotted path names nothing that is there."""


class Default(Enum):
    """What stands in place of a default that is not a value."""

    REQUIRED = "required"
    UNREAD = "unread"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One argument: the type of its values, and its default."""

    hint: Any = Any
    default: object = Default.REQUIRED

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is Default.REQUIRED


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a class or function takes.

    Attributes:
        name: Its name, without the module.
        parameters: Its arguments by name, in order.
        open: Whether it takes arguments of any other name too.
        summary: The first line of its docstring.
    """

    name: str
    parameters: Mapping[str, Parameter]
    open: bool = False
    summary: str = ""


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
        return _read(found, path)
    except UnreadableError:
        return _imported(path)


def describe(path: str) -> str:
    """Return the first line of the docstring of the class or function at a dotted path.

    Raises:
        TargetError: There is nothing at this path.
    """
    return signature_of(path).summary


def _read(found: Definition | Source | None, path: str) -> Signature:
    if not isinstance(found, Definition):
        raise UnreadableError(path)
    node = found.node
    if isinstance(node, ast.ClassDef):
        return _signature(node, _constructor(found) or {}, name=node.name)
    if isinstance(node, ast.FunctionDef):
        return _signature(node, _arguments(node, found.source), name=node.name)
    alias = dotted(node.value, found.source) if isinstance(node, ast.Assign | ast.AnnAssign) and node.value else None
    if alias is None:
        raise UnreadableError(path)
    return _read(locate(alias), alias)


def _signature(node: ast.ClassDef | ast.FunctionDef, parameters: dict[str, Parameter], *, name: str) -> Signature:
    summary = (ast.get_docstring(node) or "").partition("\n")[0]
    named = {key: parameter for key, parameter in parameters.items() if key != "**"}
    return Signature(name=name, parameters=named, open="**" in parameters, summary=summary)


def _constructor(found: Definition) -> dict[str, Parameter] | None:
    """Return the arguments of a class; None where neither it nor its bases have a constructor."""
    node = found.node
    if not isinstance(node, ast.ClassDef):
        raise UnreadableError(ast.unparse(node))
    methods = {statement.name: statement for statement in node.body if isinstance(statement, ast.FunctionDef)}
    if init := methods.get("__init__") or methods.get("__new__"):
        return _arguments(init, found.source, bound=True)
    if _dataclass_call(node, found.source) or _is_named_tuple(node, found.source):
        return {name: parameter for name, parameter in _fields(found) if parameter is not None}
    for base in _bases(node, found.source):
        if (inherited := _constructor(base)) is not None:
            return inherited
    return None


def _arguments(node: _Function, source: Source, *, bound: bool = False) -> dict[str, Parameter]:
    """Return a function's arguments by name, and one named `**` where it takes any other."""
    positional = [*node.args.posonlyargs, *node.args.args]
    padding = [None] * (len(positional) - len(node.args.defaults))
    pairs = list(zip(positional, [*padding, *node.args.defaults], strict=True))[int(bound) :]
    pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    found = {a.arg: Parameter(hint=hint_of(a.annotation, source), default=_default(d, source)) for a, d in pairs}
    return found | ({"**": Parameter()} if node.args.kwarg else {})


def _default(node: ast.expr | None, source: Source) -> object:
    if node is None:
        return Default.REQUIRED
    try:
        return value_of(node, source)
    except UnreadableError:
        return Default.UNREAD


def _bases(node: ast.ClassDef, source: Source) -> Iterator[Definition]:
    for base in node.bases:
        plain = base.value if isinstance(base, ast.Subscript) else base
        path = dotted(plain, source)
        if path in _WITHOUT_INIT or (isinstance(plain, ast.Name) and plain.id == "object"):
            continue
        found = locate(path) if path else None
        if not isinstance(found, Definition):
            raise UnreadableError(ast.unparse(base))
        yield found


def _dataclass_call(node: ast.ClassDef, source: Source) -> ast.expr | None:
    for decorator in node.decorator_list:
        if dotted(decorator.func if isinstance(decorator, ast.Call) else decorator, source) == "dataclasses.dataclass":
            return decorator
    return None


def _is_named_tuple(node: ast.ClassDef, source: Source) -> bool:
    return any(dotted(base, source) == "typing.NamedTuple" for base in node.bases)


def _fields(found: Definition) -> Iterator[tuple[str, Parameter | None]]:
    """Yield the fields of a dataclass, those of its bases first; None for one that its constructor does not take."""
    node = found.node
    if not isinstance(node, ast.ClassDef) or _is_named_tuple(node, found.source):
        bases = []
    else:
        bases = list(_bases(node, found.source))
    for base in reversed(bases):
        if isinstance(base.node, ast.ClassDef) and _dataclass_call(base.node, base.source):
            yield from _fields(base)
    for statement in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if not ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar")):
                yield statement.target.id, _field(statement, found.source)


def _field(statement: ast.AnnAssign, source: Source) -> Parameter | None:
    annotation = statement.annotation
    if isinstance(annotation, ast.Subscript) and dotted(annotation.value, source) == "dataclasses.InitVar":
        annotation = annotation.slice
    hint, value = hint_of(annotation, source), statement.value
    if not isinstance(value, ast.Call) or dotted(value.func, source) != "dataclasses.field":
        return Parameter(hint=hint, default=_default(value, source))
    given = {word.arg: word.value for word in value.keywords}
    if "init" in given and value_of(given["init"], source) is False:
        return None
    made = Default.UNREAD if "default_factory" in given else _default(given.get("default"), source)
    return Parameter(hint=hint, default=made)


def _absence(path: str) -> str | None:
    """Return the sentence about the first part of a path that is not there; None where only an import can tell."""
    parts = path.split(".")
    if len(parts) < 2:
        return f"'{path}' is not the dotted path of a class or function"
    if source_of(parts[0]) is None:
        return f"there is no module '{parts[0]}'{_suggestion(parts[0], names_of_modules())}"
    for end in range(1, len(parts)):
        holder, name = locate(".".join(parts[:end])), parts[end]
        if locate(".".join(parts[: end + 1])) is None:
            complete = isinstance(holder, Source) and _is_complete(holder)
            return _no_such(holder, name) if complete and isinstance(holder, Source) else None
    return None


def _is_complete(source: Source) -> bool:
    return source.complete and all((below := source_of(star)) and _is_complete(below) for star in source.stars)


def _no_such(source: Source, name: str) -> str:
    return f"{source.name} has no '{name}'{_suggestion(name, names_in(source))}"


def _suggestion(name: str, valid: set[str]) -> str:
    sentence = did_you_mean(name, valid) if valid else ""
    return f"; {sentence}" if sentence.startswith("did") else ""


def names_of_modules() -> set[str]:
    """Return the names of the top-level modules that can be imported."""
    import pkgutil

    return {module.name for module in pkgutil.iter_modules()}


def _imported(path: str) -> Signature:
    target = _import(path)
    summary = (inspect.getdoc(target) or "").partition("\n")[0]
    name = getattr(target, "__name__", path.rpartition(".")[2])
    if not callable(target):
        raise TargetError(f"{path} is not a class or function")
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # some builtins have none
        return Signature(name=name, parameters={}, open=True, summary=summary)
    hints = _hints(target)
    named = {p.name: _parameter(p, hints) for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Signature(name=name, parameters=named, open=takes_any, summary=summary)


def _parameter(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Parameter:
    default = Default.REQUIRED if parameter.default is parameter.empty else parameter.default
    return Parameter(hint=hints.get(parameter.name, Any), default=default)


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError):  # annotations that only a type checker can import: names are checked, types are not
        return {}


def _import(path: str) -> Any:
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            holder = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not ".".join(parts[:end]).startswith(error.name or " "):
                raise TargetError(f"{path} needs the module '{error.name}', which is not installed") from error
            continue
        return _attribute(holder, parts[end:])
    raise TargetError(f"there is no module '{parts[0]}'")


def _attribute(holder: Any, names: list[str]) -> Any:
    for name in names:
        if not hasattr(holder, name):
            raise TargetError(f"{holder.__name__} has no '{name}'{_suggestion(name, set(dir(holder)))}")
        holder = getattr(holder, name)
    return holder
