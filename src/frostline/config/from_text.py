"""The signature of a class or function, read from its text."""

import ast
from collections.abc import Iterator

from frostline.config.arguments import Default, Parameter, Signature
from frostline.config.hints import UnreadableError, hint_of, value_of
from frostline.config.source import Definition, Source, dotted, locate

_WITHOUT_INIT = {"abc.ABC", "typing.Generic", "typing.Protocol", "typing_extensions.Protocol"}


def read_signature(found: Definition | Source | None, path: str) -> Signature:
    """Return what a class or function takes, by its text.

    Args:
        found: What its path names.
        path: Its dotted path.

    Raises:
        UnreadableError: The text does not tell.
    """
    if not isinstance(found, Definition):
        raise UnreadableError(path)
    node = found.node
    if isinstance(node, ast.ClassDef):
        return _signature(found, node, _constructor(found) or {})
    if isinstance(node, ast.FunctionDef):
        return _signature(found, node, _arguments(node, found.source))
    alias = dotted(node.value, found.source) if isinstance(node, ast.Assign | ast.AnnAssign) and node.value else None
    if alias is None:
        raise UnreadableError(path)
    return read_signature(locate(alias), alias)


def _signature(found: Definition, node: ast.ClassDef | ast.FunctionDef, parameters: dict[str, Parameter]) -> Signature:
    named = {key: parameter for key, parameter in parameters.items() if key != "**"}
    return Signature(name=node.name, parameters=named, open="**" in parameters, summary=_summary(found, node))


def _summary(found: Definition, node: ast.ClassDef | ast.FunctionDef) -> str:
    inits = [s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
    texts = [ast.get_docstring(node), found.source.docs.get(node.name), *(ast.get_docstring(init) for init in inits)]
    return next((text for text in texts if text), "").strip().partition("\n")[0]


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


def _arguments(node: ast.FunctionDef, source: Source, *, bound: bool = False) -> dict[str, Parameter]:
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
            yield from [] if _is_class_variable(statement) else [(statement.target.id, _field(statement, found.source))]


def _is_class_variable(statement: ast.AnnAssign) -> bool:
    return ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar"))


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
