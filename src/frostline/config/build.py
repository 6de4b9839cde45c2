"""Build what a checked config names; the only place that calls Hydra's `instantiate`."""

import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from frostline.errors import IntegrityError, RequestError, moved


def build(node: Any, *, key: str = "", **arguments: Any) -> Any:
    """Build the object of a node, or for `_partial_: true` the callable that builds it once it has the rest.

    Args:
        node: A node with a `_target_`, or None for nothing.
        key: Its key, for the error sentence; that of a `DictConfig` is known.
        **arguments: Further arguments, handed on as they are; they win over those of the node.

    Raises:
        RequestError: The constructor refuses its arguments.
    """
    if node is None:
        return None
    with as_request(key or _key_of(node)), _told_where_it_stands(node):
        make = hydra.utils.instantiate(node, _convert_="all", _partial_=True, **_whitelist(node))
        bound = functools.partial(make.func, *make.args, **make.keywords | arguments)
        return bound if node.get("_partial_") else bound()


@contextmanager
def as_request(key: str) -> Iterator[None]:
    """Turn the refusal of a constructor inside this context into a `RequestError` that names the key."""
    try:
        yield
    except Exception as error:
        cause = _cause(error)
        if _is_own(cause):
            raise cause from cause.__cause__
        if _is_refusal(cause):
            raise RequestError(f"{key}: {cause}" if key else str(cause)) from cause
        raise


@contextmanager
def _told_where_it_stands(node: Any) -> Iterator[None]:
    """Let what is built inside another part, a segmenter's backbone, say, speak of its keys as they stand there."""
    try:
        yield
    except InstantiationException as error:
        cause, place = _cause(error), re.search(r"full_key: (\S+)", str(error))
        part = OmegaConf.select(node._get_root(), place[1]) if place and OmegaConf.is_config(node) else None
        if place is None or part is None or not isinstance(cause, RequestError):
            raise
        raise moved(cause, place[1], map(str, part)) from cause.__cause__


def _cause(error: BaseException) -> BaseException:
    """Return what a constructor raised, out of what Hydra wrapped it in."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_own(error: BaseException) -> bool:
    return isinstance(error, RequestError | IntegrityError)


def _is_refusal(error: BaseException) -> bool:
    lightning = any(kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__)  # its import is slow
    return lightning or isinstance(error, ValueError | TypeError | InstantiationException)


def _key_of(node: Any) -> str:
    return str(node._get_full_key(None)) if isinstance(node, DictConfig) else ""


def _whitelist(node: Any) -> dict[str, Any]:
    """Allow the targets that the checked config names, where the installed Hydra (1.4 on) asks for a list of them."""
    asked = hasattr(hydra.utils, "execution_whitelist")
    return {"_execution_whitelist_": tuple(sorted(_targets(node)))} if asked else {}


def _targets(node: Any) -> Iterator[str]:
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if isinstance(plain, Mapping):
        yield from [str(plain["_target_"])] if "_target_" in plain else []
        plain = list(plain.values())
    for child in plain if isinstance(plain, list) else []:
        yield from _targets(child)
