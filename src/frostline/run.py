"""One run, from all that was prepared to a closed record, in the order in which things happen."""

import logging
import math
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from frostline.config.build import build
from frostline.cost import Meter
from frostline.dossier import name_of, record_course, record_request, record_results, tags_of
from frostline.engine import Freezing
from frostline.interruption import BEST, LAST, Continued, Interruption, position
from frostline.modules import Training
from frostline.prepare import Prepared, learning_rate
from frostline.record import RunRecord, Store
from frostline.run_logger import RunLogger
from frostline.seeds import stream

REMARKS = (
    ".*does not have many workers.*",  # small data are loaded faster without
    ".*smaller than the logging interval.*",  # metrics are logged by the epoch
    ".*in eval mode at the start of training.*",  # the engine sets every mode
    ".*exists and is not empty.*",  # a resumed run comes back to its folder
    ".*ended before the epoch ended.*",  # our sampler begins where the checkpoint says
    ".*LeafSpec.*",  # Lightning's own use of a deprecated name of torch
)
"""Lightning's remarks, as patterns, on what is chosen on purpose."""


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
        KeyboardInterrupt: A person interrupted; the record is closed as KILLED.
    """
    known = tags_of(prepared) | dict(tags or {})
    again = continued.run_id if continued else None
    record = store.resume(again) if again else store.record(name_of(known), tags=known, parent=parent)
    with _told_how_to_go_on(record.run_id), record, _quiet():
        if not again:
            record_request(prepared, record)
        freezing = Freezing(prepared.network, prepared.plan)
        meter = Meter(freezing)
        folder = _folder(record.run_id)
        try:
            start = continued.checkpoint_in(folder) if continued else None
            measured = _train_and_test(prepared, record, folder, [freezing, meter, *callbacks], start)
        finally:
            results = meter.metrics() | freezing.metrics()
            record.metrics(results, step=prepared.module.global_step)
            record_course(freezing, record, lr=learning_rate(prepared.cfg))
            _keep_checkpoints(record, folder)
        record_results(prepared, record)
    return Outcome(run_id=record.run_id, metrics=measured | results)


def checkpoints(store: Store, run_id: str) -> Path:
    """Return the folder of a run's checkpoints: what a killed process left behind, else what its record holds."""
    left = _folder(run_id)
    return left if (left / LAST).exists() or not store.has(run_id, KEPT) else store.fetch(run_id, KEPT)


def headline(metrics: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the value of the metric that is reported first: of test, or of val where test was left."""
    split = "test" if "test/loss" in metrics else "val"
    return next((k, v) for k, v in metrics.items() if k.startswith(f"{split}/") and k != f"{split}/loss")


def _train_and_test(
    prepared: Prepared, record: RunRecord, folder: Path, callbacks: Sequence[Callback], start: Path | None
) -> dict[str, float]:
    cfg, best, interruption = prepared.cfg, _checkpoint(folder), Interruption(folder / LAST)
    asked = [cfg.stopping] if cfg.stopping else []
    own = [build(node, key="trainer.callbacks") for node in [*asked, *(cfg.trainer.get("callbacks") or [])]]
    everyone = [interruption, *callbacks, best, *own]
    trainer = build(cfg.trainer, key="trainer", logger=RunLogger(record), callbacks=everyone, **_display(cfg))
    pl.seed_everything(stream(cfg.seed, "train"), workers=True, verbose=False)
    if start is not None:
        prepared.data.start(**position(start))
    with _interruptible():
        with interruption.listening():
            trainer.fit(prepared.module, datamodule=prepared.data, ckpt_path=start, weights_only=True)
        chosen = _take_best(prepared.module, best)
        record.metrics(chosen, step=prepared.module.global_step)
        return _measure(prepared, trainer)


def _measure(prepared: Prepared, trainer: pl.Trainer) -> dict[str, float]:
    """Return what the chosen weights score on val and, unless the test split is to be left alone, on test."""
    scores = [trainer.validate(prepared.module, datamodule=prepared.data, verbose=False)]
    if trainer.limit_test_batches:
        scores.append(trainer.test(prepared.module, datamodule=prepared.data, verbose=False))
    measured = {name: value for parts in scores for part in parts for name, value in part.items()}
    for name, value in measured.items():
        if name.endswith("/loss") and not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value}: training diverged; try a lower optimizer.lr")
    return measured


def _folder(run_id: str) -> Path:
    """Return where a run writes while it trains."""
    return Path("outputs") / run_id


def _checkpoint(folder: Path) -> ModelCheckpoint:
    """Keep the epoch of the lowest validation loss, to be tested, and the last, to be resumed."""
    return ModelCheckpoint(folder, Path(BEST).stem, monitor="val/loss", save_last=True, enable_version_counter=False)


def _take_best(module: Training, best: ModelCheckpoint) -> dict[str, float]:
    """Load the weights that validation chose and say of which epoch; without training the carried ones stay."""
    if not best.best_model_path:
        return {}
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    assert best.best_model_score is not None
    return {"best/epoch": float(checkpoint["epoch"]), "best/val_loss": float(best.best_model_score)}


def _keep_checkpoints(record: RunRecord, folder: Path) -> None:
    """Hand over to the record what the run can be resumed from, wherever it goes on; after its end, the last alone."""
    ended = sys.exc_info()[0] is None  # then the best one's weights are the run's
    for file in (folder / name for name in ((LAST,) if ended else (LAST, BEST))):
        if file.exists():
            with record.artifact(f"{KEPT}/{file.name}") as path:
                shutil.move(file, path)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()  # only if nothing else is there


def _display(cfg: DictConfig) -> dict[str, bool]:
    """Show a progress bar to a person, none to a file, unless the config says which."""
    return {} if cfg.trainer.get("enable_progress_bar") is not None else {"enable_progress_bar": sys.stderr.isatty()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says of choices that were made on purpose."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for remark in REMARKS:
            warnings.filterwarnings("ignore", remark)
        yield


@contextmanager
def _told_how_to_go_on(run_id: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with: frostline resume {run_id}") from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C through: Lightning turns it into an exit with code 1 and stops listening to further ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
