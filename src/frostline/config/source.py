"""Python modules read as text: what they define and import, found without running a line of them.

A check that imported what a config names would wait seconds for torch; the text of a module is read in milliseconds.
"""

import ast
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_DYNAMIC = ("__getattr__", "globals()", "sys.modules")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The text of one module.

    Attributes:
        name: The module's dotted name.
        package: What relative imports in it start from.
        folders: Where its submodules lie; empty for a module that is not a package.
        bindings: The statement that binds each of its names.
        stars: The modules that it imports `*` from.
        docs: The docstrings that it sets after the class, as `Name.__doc__ = ...`.
        complete: Whether its text names all that it has; no for extensions and for modules that make names as they run.
    """

    name: str
    package: str
    folders: tuple[str, ...]
    bindings: Mapping[str, ast.stmt]
    stars: tuple[str, ...]
    docs: Mapping[str, str]
    complete: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Definition:
    """A statement that defines a name, and the module that it stands in."""

    source: Source
    node: ast.stmt


@cache
def source_of(module: str) -> Source | None:
    """Return the text of a module, or None where there is no such module."""
    spec = _spec(module)
    if spec is None:
        return None
    text = _text(spec)
    body = ast.parse(text or "").body
    folders = tuple(spec.submodule_search_locations or ())
    package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
    return Source(
        name=module,
        package=package,
        folders=folders,
        bindings=dict(_bindings(body)),
        stars=tuple(_stars(body, package)),
        docs=dict(_docs(body)),
        complete=text is not None and not any(word in text for word in _DYNAMIC),
    )


def locate(path: str, *, seen: frozenset[str] = frozenset()) -> Definition | Source | None:
    """Return what a dotted path names, following imports; None where the text does not tell."""
    module, _, name = path.rpartition(".")
    if not module or path in seen:
        return source_of(path)
    holder = locate(module, seen=seen)
    if isinstance(holder, Definition):
        return _member(holder, name)
    if holder is None:
        return None
    return _bound(holder, name, seen | {path}) or source_of(f"{holder.name}.{name}")


def dotted(node: ast.expr, source: Source) -> str | None:
    """Return the path that `a.b.c` stands for in a module, through its imports; None for any other expression."""
    if isinstance(node, ast.Attribute):
        above = dotted(node.value, source)
        return above and f"{above}.{node.attr}"
    if not isinstance(node, ast.Name):
        return None
    statement = source.bindings.get(node.id)
    if statement is None:
        return _star(node, source)
    return imported_path(statement, node.id, source) or f"{source.name}.{node.id}"


def imported_path(statement: ast.stmt | None, name: str, source: Source) -> str | None:
    """Return the path that an import statement binds to a name; None where the statement is no import."""
    if isinstance(statement, ast.ImportFrom):
        return f"{_origin(statement, source.package)}.{_alias(statement, name).name}"
    if isinstance(statement, ast.Import):
        alias = _alias(statement, name)
        return alias.name if alias.asname else name
    return None


def names_in(source: Source) -> set[str]:
    """Return the public names that a module offers: its own, those it imports, its submodules."""
    starred = (below for star in source.stars if (below := source_of(star)))
    names = set(source.bindings).union(*(below.bindings for below in starred))
    names |= {module.name for module in pkgutil.iter_modules(list(source.folders))}
    return {name for name in names if not name.startswith("_")}


def _spec(module: str) -> ModuleSpec | None:
    parent = module.rpartition(".")[0]
    if not parent:
        return _top_spec(module)
    above = _spec(parent)
    return above and PathFinder.find_spec(module, above.submodule_search_locations or [])


def _top_spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ValueError:  # a module that runs as a script has no spec
        return None


def _text(spec: ModuleSpec) -> str | None:
    if spec.origin is None and spec.submodule_search_locations is not None:
        return ""  # a namespace package
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_text(encoding="utf-8")


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _bindings([*statement.orelse, *statement.body])
        elif isinstance(statement, ast.Try):
            yield from _bindings([*(s for h in statement.handlers for s in h.body), *statement.body, *statement.orelse])
        else:
            yield from ((name, statement) for name in _bound_names(statement))


def _bound_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and statement.value and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    if isinstance(statement, ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names if alias.name != "*"]
    if isinstance(statement, ast.Import):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    return []


def _stars(body: list[ast.stmt], package: str) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
            yield _origin(statement, package)


def _docs(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement in body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Attribute) and target.attr == "__doc__" and isinstance(target.value, ast.Name):
            yield target.value.id, next(_strings(statement), "")


def _strings(statement: ast.stmt) -> Iterator[str]:
    texts = [n for n in ast.walk(statement) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    yield from (str(n.value) for n in sorted(texts, key=lambda n: (n.lineno, n.col_offset)))


def _origin(statement: ast.ImportFrom, package: str) -> str:
    if not statement.level:
        return statement.module or ""
    base = package.split(".")[: len(package.split(".")) - statement.level + 1]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _alias(statement: ast.Import | ast.ImportFrom, name: str) -> ast.alias:
    return next(a for a in statement.names if name in (a.asname, a.name, a.name.partition(".")[0]))


def _member(holder: Definition, name: str) -> Definition | None:
    if not isinstance(holder.node, ast.ClassDef):
        return None
    members = dict(_bindings(holder.node.body))
    return Definition(source=holder.source, node=members[name]) if name in members else None


def _bound(source: Source, name: str, seen: frozenset[str]) -> Definition | Source | None:
    statement = source.bindings.get(name)
    if statement is None:
        starred = (locate(f"{star}.{name}", seen=seen) for star in reversed(source.stars))
        return next((found for found in starred if found), None)
    path = imported_path(statement, name, source)
    return locate(path, seen=seen) if path else Definition(source=source, node=statement)


def _star(node: ast.Name, source: Source) -> str | None:
    paths = (f"{star}.{node.id}" for star in reversed(source.stars))
    return next((path for path in paths if locate(path)), None)
