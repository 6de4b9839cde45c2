"""A config that was recorded with a run, ready to be built again: what a tracking server holds names no code to run."""

import yaml
from omegaconf import DictConfig, OmegaConf

from frostline.config.compose import checked
from frostline.config.trusted import refuse_untrusted
from frostline.errors import RequestError


def recorded_config(text: str, verb: str) -> DictConfig:
    """Return the checked config of a recorded run.

    Args:
        text: The run's config.yaml.
        verb: What the run was: `pretrain` or `finetune`.

    Raises:
        RequestError: The text is no config.
        ConfigError: It names what may not be built, or does not pass the check that every config passes.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError("config.yaml: the run's record holds no valid YAML") from error
    if not isinstance(tree, dict):
        raise RequestError("config.yaml: the run's record holds no config")
    refuse_untrusted(tree, origin="config.yaml")
    return checked(OmegaConf.create(tree), verb)
