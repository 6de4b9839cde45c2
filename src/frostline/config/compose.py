"""From a command line to a checked config: all that is wrong with it is said at once, before torch is imported."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from frostline.config.check import join, problems
from frostline.config.effective import flatten
from frostline.config.overrides import expand_sweep, overrides_for_hydra, review
from frostline.config.skeleton import SKELETONS, Pretrain, groups_of, required_groups, values_of
from frostline.config.vocabulary import conf_dir, groups, options, summary, user_conf
from frostline.errors import ConfigError
from frostline.nearest import did_you_mean

__all__ = [
    "checked",
    "compose",
    "compose_seeds",
    "conf_dir",
    "expand_sweep",
    "groups",
    "options",
    "overrides_for_hydra",
    "primary",
    "register",
    "summary",
]

_COMPOSING = (HydraException, OmegaConfBaseException, yaml.YAMLError)
_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")


def compose(verb: str, overrides: Sequence[str]) -> DictConfig:
    """Return the checked, resolved config of a command line.

    Args:
        verb: `pretrain`, `finetune` or `plan`.
        overrides: Hydra overrides; a key that a class takes needs no `+`, listed in a YAML or not.

    Raises:
        ConfigError: Something is wrong; the error says all that is.
    """
    tree, _ = _composed_and_checked(verb, overrides)
    return tree


def compose_seeds(verb: str, overrides: Sequence[str], seeds: Sequence[int]) -> dict[int, DictConfig]:
    """Return the checked, resolved configs of runs that differ in the seed alone, by seed; Hydra composes them once.

    Args:
        verb: `pretrain` or `finetune`.
        overrides: Hydra overrides, as of `compose`.
        seeds: What `seed` is in each.

    Raises:
        ConfigError: Something is wrong; the error says all that is.
    """
    first, *others = seeds
    tree, cfg = _composed_and_checked(verb, [*overrides, f"seed={first}"])
    found = {first: tree}
    for cfg.seed in others:
        found[cfg.seed] = checked(cfg, verb)
    return found


def _composed_and_checked(verb: str, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """Return a config, resolved and checked, and as Hydra has composed it."""
    skeleton = SKELETONS[primary(verb)]
    said = review(skeleton, overrides)
    cfg, found = _composed(primary(verb), said.usable)
    tree: dict[str, Any] = _resolved(cfg, "", found)
    if cfg is not None:
        found.extend(_problems(tree, skeleton))
    if cfg is None or said.problems or found:
        raise ConfigError(_without_echoes(_one_per_key([*said.problems, *found]), cfg))
    return OmegaConf.create(tree), cfg


def checked(cfg: DictConfig, verb: str) -> DictConfig:
    """Return a whole config, composed elsewhere, resolved and checked like one from a command line.

    Args:
        cfg: The config.
        verb: `pretrain` or `finetune`.

    Raises:
        ConfigError: Something is wrong; the error says all that is.
    """
    found: list[str] = []
    tree: dict[str, Any] = _resolved(cfg, "", found)
    found.extend(_problems(tree, SKELETONS[primary(verb)]))
    if found:
        raise ConfigError(_one_per_key(found))
    return OmegaConf.create(tree)


def primary(verb: str) -> str:
    """Return the name of the config that a verb reads: `plan` shows what `finetune` would do."""
    return "finetune" if verb == "plan" else verb


@cache
def register() -> None:
    """Tell Hydra of the skeletons and of the user's `conf` folder, once."""
    for verb, skeleton in SKELETONS.items():
        ConfigStore.instance().store(name=f"{verb}_skeleton", node=values_of(skeleton))
    Plugins.instance().register(UserConf)


class UserConf(SearchPathPlugin):
    """Let the `conf` folder of the working directory add to the package's own, and win over it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the user's folder in front, if it is there and the package's own is being read."""
        user = user_conf()
        mains = [Path(str(entry.path).removeprefix("file://")) for entry in search_path.get_path()]
        if user is not None and conf_dir() in mains:
            search_path.prepend("user", f"file://{user}", anchor="main")


def _composed(name: str, overrides: Sequence[str]) -> tuple[DictConfig | None, list[str]]:
    """Compose, if need be without the overrides that only Hydra can judge, and say what it found."""
    register()
    try:
        return _by_hydra(name, overrides), []
    except _COMPOSING as error:
        found = [_sentence(error)]
    rest = [text for text in overrides if not re.match(r"~.*\.|hydra[./]", text)]
    try:
        return _by_hydra(name, rest), found
    except _COMPOSING as error:
        return None, [*found, _sentence(error)]


def _by_hydra(name: str, overrides: Sequence[str]) -> DictConfig:
    with _own_hydra():
        return hydra_compose(name, overrides=list(overrides))


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Open Hydra on the package's configs, also inside a job that Hydra runs."""
    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def _sentence(error: Exception) -> str:
    """Say in one line what Hydra, OmegaConf or YAML found."""
    if lost := re.match(r"Could not delete from config. '(.+)' does not exist", str(error)):
        return f"~{lost[1]}: there is no such key to delete"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}: line {mark.line + 1} is not valid YAML: {error.problem}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    said = " ".join(line.strip() for line in str(cause).splitlines()[:2] if "full_key" not in line)
    key = getattr(cause, "full_key", None)
    return f"{key}: {said}" if key else said


def _resolved(node: object, key: str, found: list[str]) -> Any:
    """Return a config in plain containers, and add to `found` which of its values cannot be resolved."""
    if isinstance(node, DictConfig):
        return {str(name): _resolved(value, join(key, name), found) for name, value in _values(node, key, found)}
    if isinstance(node, ListConfig):
        return [_resolved(value, join(key, name), found) for name, value in _values(node, key, found)]
    return node


def _values(node: DictConfig | ListConfig, key: str, found: list[str]) -> Iterator[tuple[Any, object]]:
    names: Sequence[Any] = list(node) if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        try:
            value = node[name]
        except OmegaConfBaseException as error:
            found += _unresolved(error, node, name, join(key, name))
        else:
            yield name, value


def _unresolved(error: Exception, node: DictConfig | ListConfig, name: Any, key: str) -> list[str]:
    if isinstance(error, MissingMandatoryValue):  # a group that is open is told with its options, elsewhere
        return [f"{key}: the config leaves it to you (???); give it as {key}=VALUE"] if "." in key else []
    unresolved: Any = OmegaConf.to_container(node, resolve=False)
    raw = str(unresolved[name])
    return [f"{key}: {raw} cannot be resolved; {_nearest_key(raw, node) or str(error).splitlines()[0]}"]


def _nearest_key(raw: str, node: DictConfig | ListConfig) -> str | None:
    named = _INTERPOLATION.search(raw)
    sentence = did_you_mean(named[1], [str(key) for key in node._get_root()]) if named else ""
    return sentence if sentence.startswith("did") else None


def _problems(tree: Mapping[str, Any], skeleton: type[Pretrain]) -> Iterator[str]:
    """Yield what is wrong with the top-level keys, and below them."""
    keys = [field.name for field in fields(skeleton)]
    for name in (name for name in tree if name not in keys):
        yield f"{name}: unknown key; {did_you_mean(name, keys)}"
    for group in groups_of(skeleton):
        yield from _group_problems(group, tree.get(group), required=group in required_groups(skeleton))
    known = {key: value for key, value in tree.items() if key in keys}
    standing = dict.fromkeys(required_groups(skeleton)) | known
    yield from problems({"_target_": f"{skeleton.__module__}.{skeleton.__name__}", **standing})


def _group_problems(group: str, node: object, *, required: bool) -> Iterator[str]:
    valid = f"options: {', '.join(options(group))}"
    if node is None:
        yield from [f"{group}: choose one; {valid}"] if required else []
    elif not isinstance(node, Mapping):
        yield f"{group}: choose one; {valid}"
    elif "_target_" not in node:
        yield from (f"{group}.{name}: choose a {group} first; {valid}" for name in node)


def _without_echoes(sentences: list[str], cfg: DictConfig | None) -> list[str]:
    """Leave out a value that is wrong because the one that it repeats is: `data.seed: ${seed}`."""
    unresolved = OmegaConf.to_container(cfg, resolve=False) if cfg is not None else {}
    assert isinstance(unresolved, dict)
    raw = flatten({str(name): value for name, value in unresolved.items()})
    about = {sentence.partition(": ")[0] for sentence in sentences}
    echoes = {key for key in about if (named := _INTERPOLATION.fullmatch(str(raw.get(key)))) and named[1] in about}
    return [sentence for sentence in sentences if sentence.partition(": ")[0] not in echoes]


def _one_per_key(sentences: Sequence[str]) -> list[str]:
    """Keep the first sentence about each key."""
    first: dict[str, str] = {}
    for sentence in sentences:
        first.setdefault(sentence.partition(": ")[0], sentence)
    return list(first.values())
