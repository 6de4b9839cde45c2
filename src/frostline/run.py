"""One run, from all that was prepared to a closed record, in the order in which things happen."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning.callbacks import Callback

from frostline.config.effective import plain
from frostline.dossier import REQUESTED, name_of, record_course, record_request, record_results, tags_of
from frostline.errors import RequestError, goes_on_by
from frostline.estimate import estimated
from frostline.instruments import Instruments
from frostline.interruption import BEST, LAST, Continued
from frostline.launch import launch
from frostline.memory import give_back_freed_memory, keep_freed_memory, leave_new_memory_unfilled
from frostline.prepare import Prepared
from frostline.processes import join, processes_of, rank, told_by_the_first, world
from frostline.record import RunRecord
from frostline.run_logger import RunLogger
from frostline.store import Store
from frostline.training import quiet, train_and_test

KEPT = "checkpoints"
"""Where a record keeps checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run came to."""

    run_id: str
    metrics: Mapping[str, float]


def execute(
    prepared: Prepared,
    store: Store,
    *,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
    callbacks: Sequence[Callback] = (),
    continued: Continued | None = None,
) -> Outcome:
    """Train, audit, test and record a prepared run.

    Args:
        prepared: What `prepare` returned; it is used up.
        store: Where the record goes.
        tags: More tags of the record, without their prefix.
        parent: Id of the study's run.
        callbacks: Lightning callbacks besides the run's own.
        continued: The interrupted run that goes on, or None for a new one.

    Raises:
        IntegrityError: Something frozen has changed.
        RequestError: The working directory cannot be written to.
        KeyboardInterrupt: A person interrupted; the record is closed as KILLED.
    """
    _refuse_a_folder_that_cannot_be_written()
    keep_freed_memory()
    leave_new_memory_unfilled()
    give_back_freed_memory()  # that of the runs before, in a study, is no part of this one's peak
    if (count := processes_of(prepared.cfg.trainer)) > 1 and world() == 1:
        task = {"config": plain(prepared.cfg), "verb": prepared.verb, "tags": dict(tags or {}), "parent": parent}
        return Outcome(**launch(task | {"continued": continued and continued.plain()}, processes=count))
    join()
    if rank():
        return _accompany(prepared)
    return _record(prepared, store, tags=tags or {}, parent=parent, callbacks=callbacks, continued=continued)


def _accompany(prepared: Prepared) -> Outcome:
    """Train along with the first process, which records."""
    run_id, start = told_by_the_first()
    with quiet():
        measured = train_and_test(
            prepared,
            folder=folder_of(run_id),
            instruments=Instruments.of(prepared),
            logger=None,
            start=Path(start) if start else None,
        )
    return Outcome(run_id=run_id, metrics=measured)


def _record(
    prepared: Prepared,
    store: Store,
    *,
    tags: Mapping[str, str],
    parent: str | None,
    callbacks: Sequence[Callback],
    continued: Continued | None,
) -> Outcome:
    """Train, audit and test, in a record that is closed whatever happens."""
    record = _opened(prepared, store, tags=tags, parent=parent, continued=continued)
    with goes_on_by("resume", record.run_id), record, quiet():
        _begin(prepared, store, record, tags=tags, continued=continued)
        instruments, forecast = Instruments.of(prepared), estimated(prepared, thrifty=True)
        folder = folder_of(record.run_id)
        ended = False
        try:
            start = continued.checkpoint_in(folder, adopt=prepared.module.adopt) if continued else None
            told_by_the_first((record.run_id, str(start or "")))
            measured = train_and_test(
                prepared,
                folder=folder,
                instruments=instruments,
                callbacks=callbacks,
                logger=RunLogger(record),
                start=start,
            )
            ended = True
        finally:
            costs = instruments.metrics(forecast)
            record.metrics(costs, step=prepared.module.global_step)
            record_course(prepared, instruments, record)
            _keep_checkpoints(record, folder, ended=ended)
        record_results(prepared, record)
    return Outcome(run_id=record.run_id, metrics=measured | costs)


def _opened(
    prepared: Prepared, store: Store, *, tags: Mapping[str, str], parent: str | None, continued: Continued | None
) -> RunRecord:
    """Open a new record, or that of the run that goes on."""
    if continued and continued.run_id:
        return store.resume(continued.run_id)
    known = tags_of(prepared) | dict(tags)
    return store.record(name_of(known), tags=known, parent=parent)


def _begin(
    prepared: Prepared, store: Store, record: RunRecord, *, tags: Mapping[str, str], continued: Continued | None
) -> None:
    """Keep what is known before training, and what another run had logged where this one goes on from it."""
    if continued and continued.run_id:
        record.tags(tags)
    if not store.has(record.run_id, REQUESTED):  # a run may have been interrupted before it was
        record_request(prepared, record)
    if continued and continued.logged:
        record.take_over(continued.logged)


def checkpoints(store: Store, run_id: str) -> Path:
    """Return the folder of a run's checkpoints: what a killed process left behind, else what its record holds."""
    left = folder_of(run_id)
    return left if (left / LAST).exists() or not store.has(run_id, KEPT) else store.fetch(run_id, KEPT)


def _refuse_a_folder_that_cannot_be_written() -> None:
    if not os.access(Path.cwd(), os.W_OK):
        raise RequestError(
            f"{Path.cwd()} cannot be written to, which a run does while it trains; work in another folder"
        )


def folder_of(run_id: str) -> Path:
    """Return where a run writes while it trains."""
    return Path("outputs") / run_id


def _keep_checkpoints(record: RunRecord, folder: Path, *, ended: bool) -> None:
    """Hand over to the record what the run can be resumed from, wherever it goes on.

    After its end that is the last one alone: the weights of the best are the run's.
    """
    for file in (folder / name for name in ((LAST,) if ended else (LAST, BEST))):
        if file.exists():
            with record.artifact(f"{KEPT}/{file.name}") as path:
                shutil.move(file, path)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()  # only if nothing else is there
