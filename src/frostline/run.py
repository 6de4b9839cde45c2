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
from frostline.modules import Training
from frostline.prepare import Prepared, learning_rate
from frostline.record import RunRecord, Store
from frostline.run_logger import RunLogger
from frostline.seeds import stream

REMARKS = (
    ".*does not have many workers.*",  # small data are loaded faster without
    ".*smaller than the logging interval.*",  # metrics are logged by the epoch
    ".*in eval mode at the start of training.*",  # the engine sets every mode
    ".*LeafSpec.*",  # Lightning's own use of a deprecated name of torch
)
"""Lightning's remarks, as patterns, on what is chosen on purpose."""


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
) -> Outcome:
    """Train, audit, test and record a prepared run.

    Args:
        prepared: What `prepare` returned; it is used up.
        store: Where the record goes.
        tags: More tags of the record, without their prefix.
        parent: Id of the study's run.
        callbacks: Lightning callbacks besides the run's own.

    Raises:
        IntegrityError: Something frozen has changed.
        KeyboardInterrupt: A person interrupted; the record is closed as KILLED.
    """
    known = tags_of(prepared) | dict(tags or {})
    with store.record(name_of(known), tags=known, parent=parent) as record, _quiet():
        record_request(prepared, record)
        freezing = Freezing(prepared.network, prepared.plan)
        meter = Meter(freezing)
        folder = Path("outputs") / record.run_id
        try:
            measured = _train_and_test(prepared, record, folder, [freezing, meter, *callbacks])
        finally:
            results = meter.metrics() | freezing.metrics()
            record.metrics(results, step=prepared.module.global_step)
            record_course(freezing, record, lr=learning_rate(prepared.cfg))
            _keep_checkpoint(record, folder)
        record_results(prepared, record)
    return Outcome(run_id=record.run_id, metrics=measured | results)


def headline(metrics: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the value of the metric that is reported first: of test, or of val where test was left."""
    split = "test" if "test/loss" in metrics else "val"
    return next((k, v) for k, v in metrics.items() if k.startswith(f"{split}/") and k != f"{split}/loss")


def _train_and_test(
    prepared: Prepared, record: RunRecord, folder: Path, callbacks: Sequence[Callback]
) -> dict[str, float]:
    cfg, best = prepared.cfg, _checkpoint(folder)
    asked = [cfg.stopping] if cfg.stopping else []
    own = [build(node, key="trainer.callbacks") for node in [*asked, *(cfg.trainer.get("callbacks") or [])]]
    everyone = [*callbacks, best, *own]
    trainer = build(cfg.trainer, key="trainer", logger=RunLogger(record), callbacks=everyone, **_display(cfg))
    pl.seed_everything(stream(cfg.seed, "train"), workers=True, verbose=False)
    with _interruptible():
        trainer.fit(prepared.module, datamodule=prepared.data)
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


def _checkpoint(folder: Path) -> ModelCheckpoint:
    """Keep the epoch of the lowest validation loss, to be tested, and the last, to be resumed."""
    return ModelCheckpoint(folder, "best", monitor="val/loss", save_last=True, enable_version_counter=False)


def _take_best(module: Training, best: ModelCheckpoint) -> dict[str, float]:
    """Load the weights that validation chose and say of which epoch; without training the carried ones stay."""
    if not best.best_model_path:
        return {}
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    return {"best/epoch": float(checkpoint["epoch"]), "best/val_loss": float(best.best_model_score or math.nan)}


def _keep_checkpoint(record: RunRecord, folder: Path) -> None:
    if (last := folder / "last.ckpt").exists():
        with record.artifact("checkpoints/last.ckpt") as path:
            shutil.move(last, path)
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
