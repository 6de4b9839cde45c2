"""A config that was recorded with a run, ready to be built again: what a tracking server holds names no code to run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from frostline.config.compose import checked
from frostline.config.vocabulary import folders
from frostline.errors import ConfigError, RequestError

OURS = ("frostline.", "torch.optim.", "torch.nn.", "pytorch_lightning.callbacks.")
"""Where a recorded `_target_` may lie without standing in a config here; whole names are in the local `conf`."""


def recorded_config(text: str, verb: str) -> DictConfig:
    """Return the checked config of a recorded run.

    Args:
        text: The run's config.yaml.
        verb: What the run was: `pretrain` or `finetune`.

    Raises:
        RequestError: The text is no config, or names code that no config on this machine names.
        ConfigError: It does not pass the check that every config passes.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError("config.yaml: the run's record holds no valid YAML") from error
    if not isinstance(tree, dict):
        raise RequestError("config.yaml: the run's record holds no config")
    foreign = sorted(set(_targets(tree)) - _local_targets())
    strangers = [target for target in foreign if not target.startswith(OURS)]
    if strangers:
        raise ConfigError(
            [
                f"{target}: named by the run's record but by no config here; if you trust it, "
                "name it as a `_target_` in a file of your own ./conf"
                for target in strangers
            ]
        )
    return checked(OmegaConf.create(tree), verb)


def _local_targets() -> set[str]:
    """Return every target that a config of the package or of the user names."""
    files = [file for top in folders() for file in Path(top).rglob("*.yaml")]
    return {target for file in files for target in _targets(yaml.safe_load(file.read_text()))}


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        yield from [str(node["_target_"])] if "_target_" in node else []
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from _targets(child)
