"""Lightning's part of a run: training, choosing the weights by val, and testing these."""

import logging
import math
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from frostline.checkpoint_io import OnceAMoment
from frostline.config.build import build
from frostline.instead import done_instead
from frostline.instruments import Instruments
from frostline.interruption import BEST, LAST, Interruption, position
from frostline.modules import Training
from frostline.prepare import Prepared
from frostline.processes import data_parallel, everyones, processes_of, rank
from frostline.refusals import batches_of_one
from frostline.seeds import stream

REMARKS = (
    ".*does not have many workers.*",  # small data are loaded faster without
    ".*smaller than the logging interval.*",  # metrics are logged by the epoch
    ".*in eval mode at the start of training.*",  # the engine sets every mode
    ".*exists and is not empty.*",  # a resumed run comes back to its folder
    ".*ended before the epoch ended.*",  # our sampler begins where the checkpoint says
    ".*`self.log\\('.*', ..., sync_dist=True\\)`.*",  # the metric itself is reduced over the processes
    ".*callbacks used to create the checkpoint need to be provided.*",  # a fork may do without some
    ".*is supported for historical reasons.*",  # whoever asks for precision=bf16 means bf16-mixed, which it is
    ".*LeafSpec.*",  # Lightning's own use of a deprecated name of torch
)
"""Lightning's remarks, as patterns, on what is chosen on purpose."""


def train_and_test(
    prepared: Prepared,
    *,
    folder: Path,
    instruments: Instruments,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None,
    start: Path | None,
) -> dict[str, float]:
    """Train, choose the weights by val, and return what these score.

    Args:
        prepared: What `prepare` returned.
        folder: Where checkpoints are written.
        instruments: What goes along with the run.
        callbacks: Lightning callbacks besides those that every training has.
        logger: Where Lightning logs; None in the processes that do not record.
        start: The checkpoint to go on from, or None.

    Raises:
        FloatingPointError: The loss is not finite.
        KeyboardInterrupt: A person interrupted.
    """
    cfg, module = prepared.cfg, prepared.module
    best, interruption = best_of(folder), Interruption(folder / LAST)
    # The interruption comes last: a checkpoint of it holds what the others did in the same step. Lightning moves what
    # writes checkpoints behind all others, in this order: what copies one holds what was chosen in the same epoch.
    everyone = [*instruments.callbacks, best, last_of(folder), *callbacks, *_asked_for(cfg), interruption]
    ways = {**_display(cfg), **_parallel(cfg), **writing(cfg)}
    trainer = build(cfg.trainer, key="trainer", logger=logger or False, callbacks=everyone, **ways)
    # Each process drops out and masks by itself; the first one as a process alone would.
    own_chance = f"train/{rank()}" if rank() else "train"
    pl.seed_everything(stream(cfg.seed, own_chance), workers=True, verbose=False)
    with _interruptible():
        if prepared.plan.strategy.instead is not None:
            told = done_instead(prepared, instruments, trainer.strategy.root_device)
        else:
            with interruption.listening():
                _train(prepared, trainer, start)
            told = _take_best(module, best)
        if logger is not None and told:
            logger.log_metrics(told, step=module.global_step)
        measured = _measure(prepared, trainer)
    module.predictions = [batch for batches in everyones(module.predictions) for batch in batches]
    return measured


def _asked_for(cfg: DictConfig) -> list[Callback]:
    """Return the callbacks that the config names."""
    asked = [node for node in (cfg.stopping, cfg.averaging) if node]
    return [build(node, key="trainer.callbacks") for node in [*asked, *(cfg.trainer.get("callbacks") or [])]]


def _train(prepared: Prepared, trainer: pl.Trainer, start: Path | None) -> None:
    """Take the steps, from the first one or from a checkpoint on."""
    if start is not None:
        prepared.data.start(**position(start))
    with _told_of_batches_of_one(prepared):
        trainer.fit(prepared.module, datamodule=prepared.data, ckpt_path=start, weights_only=True)


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


def best_of(folder: Path) -> ModelCheckpoint:
    """Keep the epoch of the lowest validation loss, to be tested."""
    return ModelCheckpoint(folder, Path(BEST).stem, monitor="val/loss", enable_version_counter=False)


def last_of(folder: Path) -> ModelCheckpoint:
    """Keep the end of the last epoch, to be resumed, wherever validation falls.

    From within a validation, where Lightning would write otherwise, it does not go on as if nothing had been. Its
    `save_last`, of the other, would keep the last of those that were the best.
    """
    return ModelCheckpoint(folder, Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False)


def _take_best(module: Training, best: ModelCheckpoint) -> dict[str, float]:
    """Load the weights that validation chose and say of which epoch; without training the carried ones stay."""
    if not best.best_model_path:
        return {}
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.complete(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    assert best.best_model_score is not None
    return {"best/epoch": float(checkpoint["epoch"]), "best/val_loss": float(best.best_model_score)}


def _parallel(cfg: DictConfig) -> dict[str, Any]:
    """Return the strategy of a trainer of several processes."""
    return {"strategy": data_parallel(str(cfg.trainer.get("strategy")))} if processes_of(cfg.trainer) > 1 else {}


def writing(cfg: DictConfig) -> dict[str, Any]:
    """Return how one process writes checkpoints, unless the config says how."""
    alone = processes_of(cfg.trainer) == 1 and not cfg.trainer.get("plugins")
    return {"plugins": [OnceAMoment()]} if alone else {}


def _display(cfg: DictConfig) -> dict[str, bool]:
    """Show a progress bar to a person, none to a file, unless the config says which."""
    return {} if cfg.trainer.get("enable_progress_bar") is not None else {"enable_progress_bar": sys.stderr.isatty()}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says of choices that were made on purpose."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for remark in REMARKS:
            warnings.filterwarnings("ignore", remark)
        yield


@contextmanager
def _told_of_batches_of_one(prepared: Prepared) -> Iterator[None]:
    """Say what to do where batch normalisation is to train on one value, as over the pooled features of one image."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise batches_of_one(prepared.verb, prepared.data) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C through: Lightning turns it into an exit with code 1 and stops listening to further ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
