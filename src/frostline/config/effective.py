"""The config that a run really has, and the signature by which a run is known to have been done already."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from frostline.config.arguments import Default
from frostline.config.check import HYDRA_KEYS, join
from frostline.config.signature import signature_of

Scalar = str | int | float | bool | None

WITHOUT_EFFECT = frozenset(
    {
        "cache",
        "cache_limit_gb",
        "data.download",
        "data.num_workers",
        "data.root",
        "experiment_name",
        "freeze.file",
        "data.test",
        "data.test_images",
        "data.train",
        "data.train_images",
        "data.val",
        "data.val_images",
        "init_from",
        "init_prefix",
        "min_coverage",
        "tracking",
        "trainer.default_root_dir",
        "trainer.enable_model_summary",
        "trainer.enable_progress_bar",
    }
)
"""What may differ between two runs that give the same result; data, weights, schedules are known by their content."""


def effective(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the default of every argument that it does not give.

    A default that its text does not tell, such as an object, is left out; building the result builds the same.
    """
    given = {str(name): _effective(value) for name, value in tree.items()}
    if "_target_" not in tree:
        return given
    defaults = {name: p.default for name, p in signature_of(str(tree["_target_"])).parameters.items()}
    plain = {name: _listed(value) for name, value in defaults.items() if _is_plain(value)}
    own = {name: given[name] for name in given if name in HYDRA_KEYS}
    return own | plain | given


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as plain containers, its interpolations resolved."""
    tree = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def flatten(tree: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the leaves of a config by dotted key; a list of plain values is one leaf, its JSON."""
    return dict(_leaves(tree, ""))


def signature(
    tree: Mapping[str, Any],
    *,
    exclude: Collection[str] = WITHOUT_EFFECT,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Return 16 hexadecimal digits that two runs share if and only if they have the same effective config.

    Args:
        tree: A resolved config.
        exclude: Dotted keys that do not count, nor anything below them.
        extra: What else the result depends on: the content of data and weights.
    """
    leaves = {key: value for key, value in flatten(effective(tree)).items() if not is_below(key, exclude)}
    text = json.dumps([_canonical(leaves), _canonical(dict(extra or {}))], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _effective(value: object) -> object:
    if isinstance(value, Mapping):
        return effective(value)
    return [_effective(item) for item in value] if isinstance(value, list | tuple) else value


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, Default))


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _leaves(node: object, key: str) -> Iterator[tuple[str, Scalar]]:
    if isinstance(node, Mapping) and node:
        for name, child in node.items():
            yield from _leaves(child, join(key, name))
    elif isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        for place, child in enumerate(node):
            yield from _leaves(child, join(key, place))
    else:
        yield key, node if isinstance(node, str | int | float | None) else json.dumps(node)


def is_below(key: str, excluded: Collection[str]) -> bool:
    """Tell whether a dotted key is one of these, or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in excluded)


def _canonical(value: object) -> object:
    """Make 1 and 1.0 the same."""
    if isinstance(value, dict):
        return {str(name): _canonical(item) for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
