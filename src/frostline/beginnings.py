"""What runs of a study that begin alike have in common is trained once: one leaves it, the others begin from it.

A run up to the end of an epoch is known by a name made of all that it depends on until then. Two strategies that train
the same parameters at the same rates until an epoch ends share the names up to there.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any, Self
from zipfile import is_zipfile

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from frostline.data.whole import PARTIAL, NotWritten, whole_or_not
from frostline.freeze.adaptive import Adaptive
from frostline.interruption import BEST, LAST, Continued
from frostline.plan import Phase
from frostline.prepare import Prepared
from frostline.processes import processes_of
from frostline.store import Store

_TOLD = "beginning.json"
_AT_THE_END = ("cost/", "audit/")
"""What a run logs when it ends; one that was interrupted has logged it before."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What tells the beginning of a run from that of any other.

    Attributes:
        signature: The run's.
        names: By epoch, the name of the run up to its end; the last epoch every run trains itself.
    """

    signature: str
    names: Sequence[str] = ()

    def shares(self, other: Self) -> int:
        """Return how many epochs this run has in common with another one; a run of the same signature is not run."""
        if self.signature == other.signature:
            return 0
        pairs = zip(self.names, other.names, strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def course_of(prepared: Prepared) -> Course:
    """Return the course of a prepared run; it has no names where others cannot begin with it."""
    names = _names(prepared) if is_known_beforehand(prepared) else ()
    return Course(signature=prepared.signature, names=tuple(names))


def is_known_beforehand(prepared: Prepared) -> bool:
    """Tell whether the config and the plan say all that a run does, whole epochs at a time, in one process.

    Callbacks of the user's own may do anything at any time, and would miss the epochs that were trained elsewhere.
    """
    strategy, trainer = prepared.plan.strategy, prepared.cfg.trainer
    settled = prepared.plan.horizon == prepared.plan.end and not isinstance(strategy, Adaptive)
    alone = processes_of(trainer) == 1 and not trainer.get("callbacks")
    return settled and alone and strategy.clock == "epoch" and strategy.monitor is None


def _names(prepared: Prepared) -> Iterator[str]:
    """Yield the name of the run up to the end of each epoch but the last."""
    plan, name = prepared.plan, "\n".join(_what_it_starts_from(prepared))
    for epoch in range(plan.epochs - 1):
        step = epoch * plan.per_epoch
        phase = next(each for each in plan.phases if each.start <= step < each.stop)
        name = sha256("\n".join([name, *_what_happens(prepared, phase, plan.scales(step))]).encode()).hexdigest()[:32]
        yield name


def _what_it_starts_from(prepared: Prepared) -> Iterator[str]:
    """Yield what the first step depends on, whatever the strategy lets train in it: its adapters are there already."""
    plan, network = prepared.plan, prepared.network
    yield from (prepared.apart_from_freeze, repr(network), prepared.weights)
    yield from (repr(plan.strategy.adapter), f"{plan.epochs} {plan.per_epoch}")
    yield from (f"{group.name} {sorted(group.parameters)} {sorted(group.fixed)}" for group in plan.groups)


def _what_happens(prepared: Prepared, phase: Phase, scales: Mapping[str, float]) -> Iterator[str]:
    """Yield what an epoch does to the network, and whether its frozen part is computed or given, to the last bit."""
    yield json.dumps({name: float(scale) for name, scale in scales.items()})
    yield json.dumps(dict(phase.modes))
    yield prepared.cuts.terms(prepared.plan, phase) if prepared.cuts else ""


def those_that_share(courses: Mapping[str, Course]) -> dict[str, Course]:
    """Return the courses, by arm, that begin like another one."""
    return {
        arm: course
        for arm, course in courses.items()
        if any(course.shares(other) for name, other in courses.items() if name != arm)
    }


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run has left for others that begin alike.

    Attributes:
        run_id: The run that left it.
        arm: Its arm.
        step: The optimizer steps that it holds.
        logged: By metric, the steps and values that were written to its record until then.
        folder: Where its checkpoints are.
        own: The signature of the one run that it was trained for, along with the run that left it; of none if empty.
    """

    run_id: str
    arm: str
    step: int
    logged: Mapping[str, Sequence[tuple[int, float]]]
    folder: Path
    own: str = ""

    def for_run(self, run_id: str | None) -> Continued:
        """Return how a new run, or one that was cut before its own first checkpoint, goes on from here."""
        return Continued(run_id=run_id, folder=self.folder, logged=self.logged, own=bool(self.own))

    @property
    def tags(self) -> dict[str, str]:
        """What the record of a run says that begins with it."""
        if self.own:
            return {"trained_with": self.run_id, "trained_with_until": str(self.step)}
        return {"forked_from": self.run_id, "forked_at": str(self.step)}

    def __str__(self) -> str:
        """Say from where a run goes on."""
        return f"with {self.arm} up to step {self.step}" if self.own else f"from step {self.step} of {self.arm}"


class Beginnings:
    """The beginnings that runs of a study have left.

    Args:
        folder: Where they lie, each in a folder of its name, whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def longest(self, course: Course) -> Beginning | None:
        """Return the longest beginning of a run that is here."""
        here = (self._folder / name for name in reversed(course.names) if _is_whole(self._folder / name))
        found = (Beginning(**json.loads((place / _TOLD).read_text()), folder=place) for place in here)
        return next((each for each in found if each.own in ("", course.signature)), None)

    def leave(self, name: str, write: Callable[[Path], None], **told: Any) -> None:
        """Keep what has been trained, unless it is here; without room for it, others train it themselves.

        Args:
            name: Of the run up to here.
            write: Writes the last checkpoint, and that of the best epoch, into a folder.
            **told: What a `Beginning` says of it.
        """
        if (self._folder / name).exists():
            return
        with suppress(NotWritten), whole_or_not(self._folder / name) as folder:
            write(folder)
            (folder / _TOLD).write_text(json.dumps(told))

    @property
    def empty(self) -> bool:
        """Whether nothing was left."""
        return not self._folder.is_dir() or not any(self._folder.iterdir())

    def clear(self) -> None:
        """Remove, once all runs of a seed have run, what these have left; what was trained for a later run stays."""
        for place in self._folder.glob("*"):
            if not _is_for_one(place):
                shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        """Remove all, and the folders above that hold nothing else."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            self._folder.parent.rmdir()
            self._folder.parent.parent.rmdir()


def _is_whole(place: Path) -> bool:
    """Tell whether a beginning is there, and no crash of the machine has cut its files short."""
    files = [file for file in (place / LAST, place / BEST) if file.exists()]
    return (place / _TOLD).exists() and all(map(is_zipfile, files))


def _is_for_one(place: Path) -> bool:
    """Tell whether a beginning was trained for the one run that begins with it."""
    whole = not place.name.startswith(PARTIAL) and (place / _TOLD).exists()
    return whole and bool(json.loads((place / _TOLD).read_text()).get("own"))


def _write(trainer: pl.Trainer, folder: Path) -> None:
    """Write what a trainer has come to, and its best epoch."""
    trainer.save_checkpoint(folder / LAST)
    choosing = trainer.checkpoint_callback
    if isinstance(choosing, ModelCheckpoint) and choosing.best_model_path:
        shutil.copy(choosing.best_model_path, folder / BEST)


class Leaving(Checkpoint):
    """Leave the run up to the end of some epochs to others that begin alike.

    Lightning calls it behind all callbacks that do not write checkpoints.

    Args:
        beginnings: Where.
        names: By epoch, the name of the run up to its end, where another run will ask for it.
        store: Holds the record of this run.
        arm: The run's arm.
    """

    def __init__(self, beginnings: Beginnings, names: Mapping[int, str], *, store: Store, arm: str) -> None:
        self._beginnings = beginnings
        self._names = names
        self._store = store
        self._arm = arm

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave what has been trained; a run that is about to stop early is not what others would go on from."""
        del pl_module
        if trainer.current_epoch in self._names and not trainer.should_stop:
            run_id = str(trainer.loggers[0].version)
            trainer.loggers[0].finalize("running")  # what it has still to write is in the history then
            logged = in_training(self._store.history(run_id))
            told = {"run_id": run_id, "arm": self._arm, "step": trainer.global_step, "logged": logged}
            self._beginnings.leave(self._names[trainer.current_epoch], partial(_write, trainer), **told)


def in_training(history: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's history it has logged while it trained."""
    return {name: points for name, points in history.items() if not name.startswith(_AT_THE_END)}


def names_for(course: Course, others: Collection[Course]) -> dict[int, str]:
    """Return, by epoch, the names under which a run leaves its beginning: the longest that each other one shares."""
    return {epochs - 1: course.names[epochs - 1] for other in others if (epochs := course.shares(other))}
