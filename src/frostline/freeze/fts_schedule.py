"""Schedule files of finetuning-scheduler (a callback for Lightning), read as a schedule of phases.

Such a file maps phases, from 0 on, to `params` (names or patterns that thaw and stay thawed), `lr` and
`max_transition_epoch`. What it leaves to the callback's arguments is asked for here under the callback's names.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from frostline.depth import Outline
from frostline.errors import ConfigError, RequestError
from frostline.freeze.phases import Phase, Plateau, Rate
from frostline.freeze.schedule import Schedule
from frostline.freeze.selector import PATTERN
from frostline.nearest import did_you_mean

KEYS = ("params", "max_transition_epoch", "lr")
WHOLE_RUN = "an optimizer and a schedule of learning rates last for the whole run here; take the key out"
DOT = r"\\?\.(?=[\w(\[\\])"
"""A dot between two parts of a name, escaped or not; not the one of `fc.*`, which stands for any letter."""


@dataclass(frozen=True, kw_only=True)
class Thawing:
    """A phase as the file says it: what thaws, at which learning rate, and the epoch at which it ends at the latest."""

    params: Sequence[str]
    lr: float | None
    end: int


@dataclass(frozen=True, kw_only=True)
class FtsSchedule(Schedule):
    """A schedule that was read from a file of finetuning-scheduler.

    Attributes:
        entries: What the file says, by the selector that it was read as.

    >>> from frostline.freeze.drawing import draw
    >>> thawing = [Phase(train=["head"]), Phase(train=["head", "body"], epoch=2)]
    >>> print(draw(FtsSchedule(phases=thawing), epochs=6))
    epoch 012345
    stem  ......
    body  ..####
    head  ######
    """

    key: ClassVar[str] = "freeze.file"

    entries: Mapping[str, str] = field(default_factory=dict)

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse also a pattern that takes other names there than here, where it must match a whole name."""
        names = [place.name for place in outline.places]
        loose = [
            f"{self.key}: '{selector}' takes '{name}' there, by its beginning; here a pattern matches a whole name: "
            f"write '{selector}.*' to take it, or '{selector}$' to leave it"
            for selector in self.entries
            if (name := _by_its_beginning(selector.removeprefix(PATTERN), names))
        ]
        return [self._as_in_the_file(sentence) for sentence in [*super().problems(outline, epochs), *loose]]

    def _as_in_the_file(self, sentence: str) -> str:
        for selector, entry in self.entries.items():
            sentence = sentence.replace(f"'{selector}", f"'{entry}")
        return sentence


def fts_schedule(
    *,
    file: str,
    lr: Rate | None = None,
    base_max_lr: Rate | None = 1e-5,
    plateau: Plateau | None = None,
    norm_stats: Literal["follow", "frozen", "running"] = "follow",
    norm_affine: Literal["follow", "frozen", "train"] = "follow",
) -> FtsSchedule:
    """Train by a schedule file of finetuning-scheduler; weights go on as they are, as with its `restore_best=False`.

    Args:
        file: A YAML or JSON file.
        lr: The optimizer's learning rate, at which phase 0 trains and of which those of the file are shares.
        base_max_lr: The learning rate of later phases of which the file says none; None for the optimizer's.
        plateau: What its callback FTSEarlyStopping was given; None for transitions by epoch only. Each phase is judged
            by its own best.
        norm_stats: As in every strategy.
        norm_affine: As in every strategy.

    Raises:
        RequestError: The file cannot be read, or asks for what no strategy here does; the sentence says what.
    """
    thawings = _read(file)
    if missing := [number for number, phase in enumerate(thawings[:-1]) if phase.end < 0 and plateau is None]:
        raise RequestError(
            f"freeze.plateau: phase {missing[0]} of {file} ends when validation stops improving; "
            "say when that is, as in freeze.plateau={metric: val/loss, patience: 3}"
        )
    prefix = _prefix([entry for phase in thawings for entry in phase.params])
    phases: list[Phase] = []
    for number, thawing in enumerate(thawings):
        rate = _rate(number, thawing, lr=lr, base_max_lr=base_max_lr)
        phases.append(_phase(thawing, rate, prefix=prefix, past=phases, end=thawings[number - 1].end, plateau=plateau))
    entries = {PATTERN + _anchored(entry, prefix): entry for phase in thawings for entry in phase.params}
    return FtsSchedule(phases=phases, entries=entries, norm_stats=norm_stats, norm_affine=norm_affine)


def _phase(
    thawing: Thawing, rate: float, *, prefix: str, past: Sequence[Phase], end: int, plateau: Plateau | None
) -> Phase:
    """Return a phase that trains what this one thaws, and what those before it have thawed, each at its own rate."""
    train = [PATTERN + _anchored(entry, prefix) for entry in thawing.params]
    if not past:
        return Phase(train=train, rate=[rate] * len(train))
    rates = [*past[-1].rates, *[rate] * len(train)]
    latest = max(end, 1 + max(phase.epoch or 0 for phase in past)) if end >= 0 else None
    return Phase(train=[*past[-1].train, *train], rate=rates, epoch=latest, plateau=plateau)


def _rate(number: int, thawing: Thawing, *, lr: float | None, base_max_lr: float | None) -> float:
    """Return a phase's learning rate as a factor; that of phase 0 is the optimizer's, whatever the file says."""
    asked = thawing.lr or base_max_lr
    if number == 0 or asked is None:
        return 1.0
    if lr is None:
        raise RequestError(
            f"freeze.lr: phase {number} learns at {asked:g}; say at which rate the optimizer does, "
            "with freeze.lr='${optimizer.lr}'"
        )
    return asked / lr


def _read(file: str) -> list[Thawing]:
    """Return the phases of a file, in order."""
    try:
        tree = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RequestError(f"freeze.file: there is no file {file}; name one") from error
    except OSError as error:
        raise RequestError(f"freeze.file: {file} cannot be read ({error.strerror}); name a file") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"freeze.file: {file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    phases = {str(number): phase for number, phase in tree.items()} if isinstance(tree, Mapping) else {}
    if not phases or set(phases) != {str(number) for number in range(len(phases))}:
        raise RequestError(f"freeze.file: {file} should map the numbers of phases, from 0 on without a gap, to phases")
    if problems := [
        problem for number, phase in phases.items() for problem in _problems(f"{file}: phase {number}", phase)
    ]:
        raise ConfigError([f"freeze.file: {problem}" for problem in problems])
    return [_thawing(phases[str(number)]) for number in range(len(phases))]


def _thawing(phase: Mapping[str, Any]) -> Thawing:
    rate = float(phase["lr"]) if "lr" in phase else None
    return Thawing(params=phase["params"], lr=rate, end=phase.get("max_transition_epoch", -1))


def _problems(where: str, phase: object) -> Iterator[str]:
    """Yield what is wrong with one phase of a file."""
    if not isinstance(phase, Mapping):
        yield f"{where} should be a mapping with the key params"
        return
    for key in (str(key) for key in phase if key not in KEYS):
        unknown = f"no such key is known; {did_you_mean(key, KEYS)}"
        yield f"{where} has '{key}': {WHOLE_RUN if key.startswith('new_') else unknown}"
    entries = phase.get("params")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        yield f"{where} should list names of parameters under params"
    if not isinstance(phase.get("max_transition_epoch", -1), int):
        yield f"{where} has a max_transition_epoch that is no whole number: {phase['max_transition_epoch']}"
    if not _is_rate(phase.get("lr", 1.0)):
        yield f"{where} has an lr that is no number above 0: {phase['lr']}"


def _is_rate(value: object) -> bool:
    """Tell whether this can be a learning rate; YAML reads `1e-06`, without a point, as text."""
    try:
        return float(str(value)) > 0
    except ValueError:
        return False


def _prefix(entries: Sequence[str]) -> str:
    """Return the first part of the names, where all share one: it may be the LightningModule's name for its network."""
    firsts = {found[1] if (found := re.match(rf"\W*(\w+){DOT}", entry)) else "" for entry in entries}
    return firsts.pop() if len(firsts) == 1 else ""


def _anchored(entry: str, prefix: str) -> str:
    """Return the pattern of whole names that an entry means, with or without the prefix; a plain name means itself."""
    pattern = re.escape(entry) if re.fullmatch(r"[\w.]+", entry) else entry
    return re.sub(rf"(?<![\w.\\]){prefix}{DOT}", rf"(?:{prefix}\\.)?", pattern) if prefix else pattern


def _by_its_beginning(pattern: str, names: Sequence[str]) -> str | None:
    """Return the first name that begins with a pattern's match but does not end with it, if others match wholly."""
    try:
        whole = [name for name in names if re.fullmatch(pattern, name)]
        return next((n for n in names if whole and n not in whole and re.match(pattern, n)), None)
    except re.error:
        return None
