"""The signature of a class or function whose text does not tell it: one that is built in or made as its module runs."""

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from frostline.config.arguments import Default, Parameter, Signature


def imported_signature(path: str, target: Any) -> Signature:
    """Return what an imported class or function takes."""
    summary = (inspect.getdoc(target) or "").partition("\n")[0]
    name = getattr(target, "__name__", path.rpartition(".")[2])
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
