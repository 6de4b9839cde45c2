"""Lightning's metrics, written to the run's record."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from frostline.record import RunRecord


class RunLogger(Logger):
    """Hand what Lightning logs to a record, an epoch at a time.

    Args:
        record: The open record of this run.
    """

    def __init__(self, record: RunRecord) -> None:
        super().__init__()
        self._record = record
        self._last_step = -1

    @property
    def name(self) -> str:
        """The experiment's id."""
        return self._record.store.experiment_id

    @property
    def version(self) -> str:
        """The run's id."""
        return self._record.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics for the next write; the epoch, which Lightning adds each time, once a step."""
        now = step or 0
        known = {"epoch"} if now == self._last_step else set()
        self._last_step = now
        self._record.metrics({name: value for name, value in metrics.items() if name not in known}, step=now)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the record holds the effective config already."""

    def save(self) -> None:
        """Write what was gathered."""
        self._record.flush()
