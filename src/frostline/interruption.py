"""Stopping a run so that it can go on as if it had never stopped.

A checkpoint of Lightning holds weights, optimizer and loops. What else the next step depends on is added here: the
random generators, the place in the data, and the metrics that Lightning logs only after it has written the checkpoint.
"""

import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric

from frostline.data.order import randomness_kept, seed_global_generators
from frostline.errors import RequestError
from frostline.processes import anyone, everyones

LAST, BEST = "last.ckpt", "best.ckpt"
"""The checkpoint that a run goes on from, and that of the epoch of the lowest validation loss."""

OURS = "frostline"
"""The key of a checkpoint under which our part lies."""


@dataclass(frozen=True, kw_only=True)
class Continued:
    """An interrupted run that goes on.

    Attributes:
        run_id: Its id; None for a fork, which becomes a run of its own.
        folder: Where its checkpoints are.
        anew: Groups of the config that a fork has changed.
        logged: What the run that left the checkpoints had logged until then, by metric, to be logged in this one's
            record too: each step and its value; None where that is not wanted, or they are its own.
        own: Whether what the checkpoints hold was spent on this run, although another one has left them.
        finished: Whether the run that left them came to its end: a best one among them is of an earlier interruption.
    """

    run_id: str | None
    folder: Path
    anew: frozenset[str] = frozenset()
    logged: Mapping[str, Sequence[tuple[int, float]]] | None = None
    own: bool = False
    finished: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the same in types that JSON knows."""
        told = {"run_id": self.run_id, "folder": str(self.folder.resolve()), "anew": sorted(self.anew)}
        return told | {"finished": self.finished}

    @classmethod
    def from_plain(cls, told: Mapping[str, Any]) -> Self:
        """Return what `plain` was told of."""
        known = {"folder": Path(told["folder"]), "anew": frozenset(told["anew"]), "finished": told["finished"]}
        return cls(run_id=told["run_id"], **known)

    def checkpoint_in(self, folder: Path, *, adopt: Callable[[dict[str, Any]], None]) -> Path | None:
        """Bring the checkpoints into the folder of this run; return the one to go on from, None where there is none.

        Lightning names the best one by its whole path, which may have been another one.

        Args:
            folder: Where this run writes.
            adopt: Puts into a checkpoint what it leaves out since that run never changed it, where this one may.
        """
        if not (self.folder / LAST).exists():
            return None
        folder.mkdir(parents=True, exist_ok=True)
        chosen = (self.folder / BEST).exists() and not self.finished
        if chosen and self.folder != folder:
            whole = read_checkpoint(self.folder / BEST)
            adopt(whole)
            torch.save(whole, folder / BEST)
        checkpoint = read_checkpoint(self.folder / LAST)
        for key in [key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint")]:
            if chosen:
                checkpoint["callbacks"][key].update(_moved(checkpoint["callbacks"][key], str(folder.resolve())))
            else:  # a finished run has left it; the fork chooses among its own epochs
                checkpoint["callbacks"].pop(key)
        if (self.run_id is None or self.logged is not None) and not self.own and "Meter" in checkpoint["callbacks"]:
            _count_as_shared(checkpoint["callbacks"]["Meter"])
        if "freeze" in self.anew:
            checkpoint["callbacks"].pop("Freezing", None)
        if not self.anew.isdisjoint({"freeze", "optimizer", "scheduler"}):
            checkpoint |= {"optimizer_states": [], "lr_schedulers": []}
        torch.save(checkpoint, folder / "start.ckpt")
        if self.run_id is None and self.logged is None:  # a fork that is interrupted at once goes on from here too
            shutil.copyfile(folder / "start.ckpt", partial := folder / "last.partial")
            partial.replace(folder / LAST)
        return folder / "start.ckpt"


def _count_as_shared(bill: dict[str, Any]) -> None:
    """Note on the bill of a fork that all until here was spent by another run."""
    bill["shared"] = {"flops": bill["flops"], "wall": bill["wall"]}


def _moved(state: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the paths of Lightning's ModelCheckpoint in another folder."""
    paths = {key: _in(folder, state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
    best = {_in(folder, path): score for path, score in state["best_k_models"].items()}
    return {**paths, "best_k_models": best, "dirpath": folder}


def _in(folder: str, path: str) -> str:
    return str(Path(folder) / Path(path).name) if path else ""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in it is run.

    Raises:
        RequestError: It is broken, or none of a run of this program.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises anything at all
        raise RequestError(f"{path} is truncated or no checkpoint; remove it to begin the run anew") from error
    if not isinstance(checkpoint, dict) or OURS not in checkpoint:
        raise RequestError(f"{path} is no checkpoint of a run that can be resumed; remove it to begin the run anew")
    return checkpoint


def position(checkpoint: Path) -> dict[str, int]:
    """Return the epoch, and the batch in it, that a checkpoint goes on with."""
    where: dict[str, int] = read_checkpoint(checkpoint)[OURS]["position"]
    return where


class Interruption(Callback):
    """Keep in each checkpoint what an exact continuation needs, and stop where one is possible.

    A first Ctrl-C, or SIGTERM, stops the run behind the current optimizer step and writes a checkpoint there; a second
    one stops at once, so that only what came after the last epoch is lost. A step that validation follows is not
    stopped at, since Lightning does not come back to that validation.

    Args:
        path: Where the checkpoint of a stop is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = False
        self._listens = False
        self._epoch = 0
        self._batch = 0
        self._validated = -1
        self._resumed: dict[str, Any] | None = None
        self._within = False
        self._waiting: dict[str, float] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to signals inside this context."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if before[signal.SIGINT] is not signal.SIG_IGN:  # a shell's background job is not to be interrupted
                signal.signal(signal.SIGINT, self._ask)
            signal.signal(signal.SIGTERM, self._ask)
            self._listens = True
            yield
            if anyone(self._asked):  # after the last step at which it could stop
                raise KeyboardInterrupt
        finally:
            self._listens = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether the run was asked to stop."""
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        sys.stderr.write("\nstopping after this step; once more to stop at once\n")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs: the checkpoint of the last one is written."""
        self._step_what_waits(trainer)
        if anyone(self._asked):
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop behind an optimizer step, if that was asked for."""
        self._epoch, self._batch = trainer.current_epoch, batch_idx + 1
        if (
            _step_ends(trainer, batch_idx + 1)
            and anyone(self._asked)
            and not _validation_follows(trainer, batch_idx + 1)
        ):
            trainer.save_checkpoint(self._path)
            raise KeyboardInterrupt

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when: an epoch may end without, and Lightning still knows what an earlier one came to."""
        self._validated = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move on to the start of the next epoch."""
        self._epoch, self._batch = trainer.current_epoch + 1, 0
        if self._within:
            self._waiting = _logged_at_the_end_of(trainer)
        self._within = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the schedule as it would be."""
        self._step_what_waits(trainer)

    def _step_what_waits(self, trainer: pl.Trainer) -> None:
        """Step the schedules that wait on a metric, where Lightning leaves that out: at the end of a resumed epoch."""
        metrics, self._waiting = self._waiting, {}
        for config in trainer.lr_scheduler_configs:
            value = metrics.get(str(config.monitor))
            if isinstance(config.scheduler, ReduceLROnPlateau) and value is not None:
                config.scheduler.step(value)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add our part to a checkpoint, what was logged before it and is not yet written among it."""
        ended = self._batch == 0
        checkpoint[OURS] = {
            "position": {"epoch": self._epoch, "batch": self._batch},
            "random": everyones(_random_states()),
            "sums": everyones(_sums(pl_module)),
            "metrics": _logged_at_the_end_of(trainer) if ended else {},
            "metrics_step": trainer.global_step - 1,  # the step under which Lightning logs what an epoch came to
            "validated": self._validated == trainer.global_step,
        }
        if trainer.logger is not None:
            trainer.logger.save()
        checkpoint[OURS]["waiting"] = _waiting(trainer.logger)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on where the checkpoint left off, and take SIGTERM back from Lightning, to which it is a good end."""
        self._go_on(trainer, pl_module)
        if self._listens:
            signal.signal(signal.SIGTERM, self._ask)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the same where there was nothing left to train."""
        self._go_on(trainer, pl_module)
        self._step_what_waits(trainer)

    def _go_on(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was not yet logged and put random generators and metrics where the checkpoint left them."""
        if self._resumed is None:
            return
        if trainer.logger is not None:
            for metrics, step in _not_yet_logged(self._resumed):
                trainer.logger.log_metrics(metrics, step=step)
        self._waiting, self._within = self._resumed["metrics"], not self._resumed["metrics"]
        for states in self._resumed["random"][trainer.global_rank :][:1]:  # a fork may have more processes
            _restore_random(states)
        for sums in self._resumed["sums"][trainer.global_rank :][:1]:
            _restore_sums(pl_module, sums)
        self._resumed = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take our part from the checkpoint that training goes on from."""
        self._resumed = checkpoint[OURS]
        self._epoch, self._batch = self._resumed["position"]["epoch"], self._resumed["position"]["batch"]


def _waiting(logger: object) -> list[tuple[dict[str, float], int]]:
    """Return what a logger has not yet written, with the step of each; most write at once."""
    return list(getattr(logger, "waiting", ()))


def _not_yet_logged(resumed: Mapping[str, Any]) -> Iterator[tuple[dict[str, float], int]]:
    """Yield what a checkpoint knows that no record holds, each once: validation is logged before the epoch ends."""
    last, waiting = resumed["metrics_step"], resumed["waiting"]
    yield from waiting
    known = {name for metrics, step in waiting if step == last for name in metrics}
    if not resumed.get("validated", True):  # older checkpoints do not say
        known |= {name for name in resumed["metrics"] if name.startswith("val/")}
    if ended := {name: value for name, value in resumed["metrics"].items() if name not in known}:
        yield ended, last


def _logged_at_the_end_of(trainer: pl.Trainer) -> dict[str, float]:
    """Return what Lightning is about to log for the epoch that ends."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {**metrics, "epoch": float(trainer.current_epoch)}


def _step_ends(trainer: pl.Trainer, batches: int) -> bool:
    return batches % trainer.accumulate_grad_batches == 0


def _validation_follows(trainer: pl.Trainer, batches: int) -> bool:
    every = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is None:  # then the interval does not begin anew with each epoch
        batches += trainer.current_epoch * int(trainer.num_training_batches)
    return trainer.is_last_batch or (isinstance(every, int | float) and every < float("inf") and batches % every == 0)


def _sums(pl_module: pl.LightningModule) -> dict[str, dict[str, torch.Tensor]]:
    """Return what this process has summed up of its own examples in the epoch so far, by metric."""
    metrics = {name: module for name, module in pl_module.named_modules() if isinstance(module, Metric)}
    return {
        name: {key: value.cpu() for key, value in metric.metric_state.items() if isinstance(value, torch.Tensor)}
        for name, metric in metrics.items()
        if metric.update_called
    }


def _restore_sums(pl_module: pl.LightningModule, sums: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    for name, state in sums.items():
        metric = pl_module.get_submodule(name)
        for key, value in state.items():
            setattr(metric, key, value.to(pl_module.device))


def _random_states() -> dict[str, Any]:
    """Return the states of the global generators, in types that a checkpoint may hold without running code.

    Long ones are tensors: a checkpoint writes a tuple number by number.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "python": (version, torch.tensor(words), gauss),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        # To ask whether there is a GPU takes a millisecond; one that no tensor has been on has drawn nothing.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def random_states_of(seed: int) -> dict[str, Any]:
    """Return the states of the global generators right after they were seeded, which leaves them as they are."""
    with randomness_kept():
        seed_global_generators(seed)
        states = _random_states()
    devices = range(len(states["cuda"]))
    return states | {"cuda": [torch.Generator(f"cuda:{i}").manual_seed(seed).get_state() for i in devices]}


def _restore_random(states: dict[str, Any]) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(int(word) for word in words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):  # here may be fewer
            torch.cuda.set_rng_state(state, device)
