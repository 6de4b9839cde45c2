"""Lightning's metrics, written to the run's record."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from frostline.record import RunRecord

_PAUSE = 2.0
"""Seconds between two writes: each waits for the disk, and short epochs would wait longer than they compute."""


class RunLogger(Logger):
    """Hand what Lightning logs to a record, some seconds' worth at a time.

    Args:
        record: The open record of this run.

    Attributes:
        waiting: What is not yet written, with the step of each; checkpoints hold it meanwhile.
    """

    def __init__(self, record: RunRecord) -> None:
        super().__init__()
        self.waiting: list[tuple[dict[str, float], int]] = []
        self._record = record
        self._last_epoch = record.taken_over
        self._written = monotonic()

    @property
    def name(self) -> str:
        """The experiment's id."""
        return self._record.experiment_id

    @property
    def version(self) -> str:
        """The run's id."""
        return self._record.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics for the next write; the epoch, which Lightning adds each time, once a step."""
        now = step or 0
        known = {"epoch"} if now == self._last_epoch else set()
        kept = {name: float(value) for name, value in metrics.items() if name not in known}
        self._last_epoch = now if "epoch" in kept else self._last_epoch
        self.waiting.append((kept, now))
        self._record.metrics(kept, step=now)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the record holds the effective config already."""

    def save(self) -> None:
        """Write what was gathered, if the last time is some seconds ago."""
        if monotonic() - self._written >= _PAUSE:
            self._write()

    def finalize(self, status: str) -> None:
        """Write what was gathered, unless all went well: then the record writes it with the results that follow."""
        if status != "success":
            self._write()

    def _write(self) -> None:
        self._record.flush()
        self.waiting.clear()
        self._written = monotonic()
