"""What a run costs: seconds, FLOPs, memory and how many parameters train, measured while Lightning trains."""

import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from frostline.batch import Batch
from frostline.engine import Freezing
from frostline.plan import Phase


class Meter(Callback):
    """Measure a run's cost.

    FLOPs are counted by torch on the first step of each phase, forward and backward, and multiplied by the examples
    that the phase sees; a multiply-add counts as two. Validation is part of the seconds but not of the FLOPs.

    Args:
        freezing: Knows the phase, between which the cost of a step changes; called before this callback.
    """

    def __init__(self, freezing: Freezing) -> None:
        self._freezing = freezing
        self._phase: Phase | None = None
        self._counter: FlopCounterMode | None = None
        self._counting = ExitStack()
        self._per_example = 0.0
        self._flops = 0.0
        self._spent = 0.0
        self._steps: list[float] = []
        self._begun = 0.0
        self._step_begun = 0.0
        self._wall = 0.0
        self._shared = {"flops": 0.0, "wall": 0.0}
        self._trainable = 0
        self._on_gpu = False
        self._processes = 1

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of what is made ready for validation before training."""
        self._begun = perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add what was made ready before training: what the cache keeps of validation, for one."""
        if trainer.sanity_checking:
            self._wall += perf_counter() - self._begun

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock and forget the memory's earlier peak."""
        self._on_gpu = pl_module.device.type == "cuda"
        self._processes = trainer.world_size
        _reset_peak_memory()
        self._begun = perf_counter() - self._wall

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the FLOPs of this step if it is the first of its phase, else take its time."""
        phase = self._freezing.phase
        if phase is not None and phase is not self._phase:
            self._phase = phase
            self._trainable = max(self._trainable, self._freezing.plan.trainable(phase))
            self._counter = self._counting.enter_context(FlopCounterMode(display=False))
        self._step_begun = perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add the step to the bill."""
        examples = len(batch.places)
        if self._counter is not None:
            self._counting.close()
            self._per_example = self._counter.get_total_flops() / examples
            self._counter = None
        else:
            self._steps.append(perf_counter() - self._step_begun)
        self._flops += self._per_example * examples

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._wall = perf_counter() - self._begun

    def leave_out(self, seconds: float) -> None:
        """Leave out what was just spent on other runs."""
        self._begun += seconds

    def spend(self, flops: float, *, shared: bool) -> None:
        """Add FLOPs of training besides its steps, which another run has spent where they are shared."""
        self._flops += flops
        self._spent += flops
        self._shared["flops"] += flops if shared else 0.0

    @contextmanager
    def measuring(self, *, flops: bool = True) -> Iterator[None]:
        """Count what happens in this context in place of training; the seconds alone of what is spent otherwise."""
        if not self._wall:
            _reset_peak_memory()
        begun, counter = perf_counter(), FlopCounterMode(display=False)
        with counter:
            yield
        self._flops += counter.get_total_flops() if flops else 0
        self._wall += perf_counter() - begun
        self._trainable = self._freezing.plan.trainable(self._freezing.plan.phases[0])

    def state_dict(self) -> dict[str, Any]:
        """Return the bill so far."""
        wall = perf_counter() - self._begun
        bill = {
            "flops": self._flops,
            "spent": self._spent,
            "steps": torch.tensor(self._steps, dtype=torch.float64),  # a checkpoint writes a list number by number
            "wall": wall,
            "trainable": self._trainable,
        }
        return {**bill, "shared": dict(self._shared)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the bill of a run that was interrupted, or that another run begins from."""
        self._flops, self._steps = state_dict["flops"], [float(seconds) for seconds in state_dict["steps"]]
        self._wall, self._trainable = state_dict["wall"], state_dict["trainable"]
        self._shared = state_dict.get("shared", self._shared)  # older checkpoints share nothing
        self._spent = state_dict.get("spent", 0.0)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave torch's counting mode, which is global, if a step broke off."""
        self._counting.close()
        self._counter = None
        self._wall = perf_counter() - self._begun if self._begun else 0.0

    def metrics(self) -> dict[str, float]:
        """Return the bill, by the names under which MLflow keeps it.

        It is that of the whole run, as if it had been alone; what is shared of it was spent once, by another run.
        """
        return {
            "cost/wall_s": self._wall,
            "cost/step_ms": 1000 * median(self._steps) if self._steps else 0.0,
            "cost/train_flops": self._flops * self._processes,
            "cost/peak_memory_mb": _peak_memory_mb(on_gpu=self._on_gpu),
            "cost/trainable_params": float(self._trainable),
            "cost/shared_flops": self._shared["flops"] * self._processes,
            "cost/shared_wall_s": self._shared["wall"],
        }


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the resident set's peak starts anew, see proc(5)
    except OSError:
        return


def held_bytes(*, on_gpu: bool) -> int:
    """Return the memory that the process holds now: on a GPU in tensors, on the processor its resident set."""
    return torch.cuda.memory_allocated() if on_gpu else _status("VmRSS") or 0


def _peak_memory_mb(*, on_gpu: bool) -> float:
    """Return the peak of the GPU's memory, or on the processor of this process's whole resident memory, in MB."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 1e6
    if (peak := _status("VmHWM")) is not None:
        return peak / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _status(field: str) -> int | None:
    """Return what Linux says of this process's memory, in bytes; None where there is no Linux, see proc(5)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return None
