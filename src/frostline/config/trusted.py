"""Which classes a config may name that did not come from the user's own keyboard, but from a tracking server.

Whoever can write to the server could otherwise have any function of any installed package called here.
"""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from frostline.config.source import Definition, locate
from frostline.config.vocabulary import folders
from frostline.errors import ConfigError

TRUSTED = ("frostline", "torch.optim", "torch.nn", "pytorch_lightning.callbacks")
"""Packages whose public classes a recorded config may name, besides what stands in `conf/`."""


def refuse_untrusted(tree: Mapping[str, Any], *, origin: str) -> None:
    """Refuse a recorded config that names what neither `conf/` nor one of the trusted packages defines.

    A path must lead to a definition inside the package: `frostline.record.os.system` is none. Interpolations are
    refused too, since a resolver could make nodes that no walk has seen.

    Args:
        tree: The config as plain containers, unresolved.
        origin: Where it came from, for the error sentence.

    Raises:
        ConfigError: The config is not to be built; the error says all that is wrong with it.
    """
    own = {str(target) for target in _local_targets()}
    found = [*_untrusted(tree, own), *_interpolated(tree)]
    if found:
        raise ConfigError([f"{origin}: {problem}" for problem in found])


def _untrusted(tree: Mapping[str, Any], own: set[str]) -> Iterator[str]:
    for target in dict.fromkeys(_targets(tree)):
        if target not in own and not _inside(target):
            yield (
                f"names '{target}', which no file of conf/ names and no trusted package defines; "
                "if it is yours, give it a YAML file in ./conf"
            )


def _interpolated(tree: object) -> Iterator[str]:
    yield from (f"holds the interpolation {text!r}" for text in _leaves(tree) if "${" in text)


def _inside(target: str) -> bool:
    """Tell whether a path leads to a public class that a trusted package itself defines."""
    package = next((name for name in TRUSTED if target.startswith(f"{name}.")), None)
    if package is None or any(part.startswith("_") for part in target.split(".")):
        return False
    found = locate(target)
    if not isinstance(found, Definition) or not isinstance(found.node, ast.ClassDef):
        return False
    return f"{found.source.name}.".startswith(f"{package}.")


def _local_targets() -> Iterator[str]:
    for top in folders():
        for file in sorted(top.rglob("*.yaml")):
            yield from _targets(yaml.safe_load(file.read_text()))


def _targets(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        yield from [str(node["_target_"])] if "_target_" in node else []
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from _targets(child)


def _leaves(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        node = [*node, *node.values()]
    if isinstance(node, list):
        for child in node:
            yield from _leaves(child)
    elif isinstance(node, str):
        yield node
