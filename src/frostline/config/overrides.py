"""What a command line says, before Hydra reads it: every override that names nothing, with the nearest name."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from frostline.config.skeleton import SKELETONS, Finetune, Pretrain, groups_of
from frostline.config.vocabulary import groups, options
from frostline.errors import ConfigError, RequestError
from frostline.nearest import did_you_mean

JOBS_CHECKED = 200
"""How many jobs of a sweep are checked before the first one starts."""


@dataclass(frozen=True, kw_only=True)
class Review:
    """What is wrong with a command line, and the overrides that are right."""

    problems: list[str]
    usable: list[str]


def review(skeleton: type[Pretrain], overrides: Sequence[str]) -> Review:
    """Say what each override does wrong, and keep those that do nothing wrong, in the form that Hydra reads."""
    parsed = [_parsed(text) for text in overrides]
    changes = [change for change in parsed if isinstance(change, Override)]
    more = [Path(entry) for entry in _search_path(changes)]
    faults = {id(change): _fault(change, skeleton, more) for change in changes}
    broken = {change.key_or_group for change in changes if faults[id(change)]}  # and what is below it is not to judge
    usable = [for_hydra(c) for c in changes if not {c.key_or_group, c.key_or_group.partition(".")[0]} & broken]
    sentences = [change if isinstance(change, str) else faults[id(change)] for change in parsed]
    return Review(problems=[sentence for sentence in sentences if sentence], usable=usable)


def overrides_for_hydra(verb: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides in the form that Hydra reads, where a key that no YAML lists needs a `++`."""
    assert verb in SKELETONS or verb == "plan", verb
    parsed = [(text, _parsed(text)) for text in overrides]
    return [for_hydra(change) if isinstance(change, Override) else text for text, change in parsed]


def expand_sweep(overrides: Sequence[str], *, limit: int = JOBS_CHECKED) -> list[list[str]]:
    """Return the overrides of each job of a sweep such as `a=1,2 b=choice(x,y)`, at most `limit` of them.

    Raises:
        ConfigError: An override cannot be read or names no list of values.
    """
    parsed = [_parsed(text) for text in overrides]
    if unread := [change for change in parsed if isinstance(change, str)]:
        raise ConfigError(unread)
    values = [_values(change) for change in parsed if isinstance(change, Override)]
    return [list(job) for job in itertools.islice(itertools.product(*values), limit)]


def swept(overrides: Sequence[str]) -> set[str]:
    """Return the keys that a sweep gives several values.

    >>> sorted(swept(["seed=0,1", "freeze=head", "optimizer.lr=0.1,0.2"]))
    ['optimizer.lr', 'seed']
    """
    changes = [change for change in map(_parsed, overrides) if isinstance(change, Override)]
    return {change.key_or_group for change in changes if change.is_sweep_override()}


def refuse_groups_given_twice(overrides: Sequence[str]) -> None:
    """Refuse two choices of one group in a sweep, which would try the last alone.

    In a single run the last one wins on purpose, as with all of Hydra's overrides.

    Raises:
        ConfigError: There are some; what cannot be read is told elsewhere.
    """
    changes = [change for change in map(_parsed, overrides) if isinstance(change, Override) and not change.is_delete()]
    given = Counter(change.key_or_group for change in changes if change.key_or_group in groups_of(Finetune))
    if twice := [group for group, count in given.items() if count > 1]:
        raise ConfigError([f"{group}: given twice; a sweep tries several as {group}=A,B" for group in twice])


def for_hydra(change: Override) -> str:
    """Return an override as Hydra reads it: one of a dotted key may add the key, a group set to null is left out."""
    text, key = str(change.input_line), change.key_or_group
    if change.is_hydra_override() or change.is_add() or change.is_force_add() or change.is_delete():
        return text
    if key in groups_of(Finetune) and not change.is_sweep_override() and change.value() is None:
        return f"~{key}"
    return f"++{text}" if "." in key else text


def set_by(override: str) -> tuple[str, Any]:
    """Return the key that an override sets, and its value as Hydra reads that: `off` is a word.

    Raises:
        RequestError: It sets no value, or several.
    """
    change = _parsed(override)
    if isinstance(change, str):
        raise RequestError(change)
    if change.is_delete():
        raise RequestError(f"{override}: no override; write key=value")
    if change.is_sweep_override():
        raise RequestError(f"{change.key_or_group}: several values are for a sweep; a list is written [1,2]")
    return change.key_or_group, change.value()


def _parsed(text: str) -> Override | str:
    """Read one override; return the sentence about it where it cannot be read."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        key, equals, value = text.partition("=")
        if not equals:
            return f"{text}: no override; write key=value"
        return f"{key}: cannot read the value {value}; put it in quotes: '{key}=\"{value}\"'"


def _fault(change: Override, skeleton: type[Pretrain], more: Sequence[Path]) -> str | None:
    """Say what is wrong with an override of a key or group; None where nothing is."""
    key, top = change.key_or_group, change.key_or_group.partition(".")[0]
    keys = {field.name for field in fields_of(skeleton)}
    if change.is_hydra_override():
        return _lost_folder(change)
    if change.is_sweep_override():
        return f"{key}: several values are for a sweep, which needs -m; a list is written [1,2]"
    if top not in keys:
        return None if top.partition("/")[0] in groups(*more) and change.is_add() else _unknown(top, skeleton)
    if top not in groups_of(skeleton):
        return f"{key}: {top} is a single value; write {top}=VALUE" if top != key else None
    return _unknown_option(change, more) if top == key and not change.is_delete() else None


def _unknown(top: str, skeleton: type[Pretrain]) -> str:
    takers = [verb for verb, other in SKELETONS.items() if top in {field.name for field in fields_of(other)}]
    if takers:
        return f"{top}: only {' and '.join(takers)} takes it"
    return f"{top}: unknown key; {did_you_mean(top, [field.name for field in fields_of(skeleton)])}"


def _unknown_option(change: Override, more: Sequence[Path]) -> str | None:
    group, value = change.key_or_group, change.value()
    valid = options(group, *more)
    if value is None or str(value) in valid:
        return None
    nearest = did_you_mean(str(value), valid)
    hint = f" {nearest}" if nearest.startswith("did") else ""
    return f"{group}={value}: no such option;{hint} options: {', '.join(valid)}"


def _lost_folder(change: Override) -> str | None:
    lost = [entry for entry in _search_path([change]) if not Path(entry).is_dir()]
    return f"hydra.searchpath: there is no folder {lost[0]}" if lost else None


def _search_path(changes: Sequence[Override]) -> list[str]:
    """Return the folders that `hydra.searchpath` adds."""
    entries = [entry for c in changes if c.key_or_group == "hydra.searchpath" for entry in _as_list(c.value())]
    return [entry.removeprefix("file://") for entry in entries if not entry.startswith("pkg://")]


def _as_list(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _values(change: Override) -> list[str]:
    if not change.is_sweep_override():
        return [str(change.input_line)]
    key = change.get_key_element()
    value: object = change.value()
    if isinstance(value, Glob):
        return [f"{key}={name}" for name in value.filter(options(change.key_or_group))]
    if not change.is_discrete_sweep():
        raise ConfigError([f"{change.key_or_group}: an interval has no end of values; list those to try: 1,2,3"])
    return [f"{key}={text}" for text in change.sweep_string_iterator()]
