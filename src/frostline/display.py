"""A study's progress on a terminal: one bar for all its runs and a line for the current one; plain lines in a file."""

from statistics import median_low
from time import perf_counter
from types import TracebackType
from typing import Self

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class StudyDisplay:
    """Shows runs done, time left and the current run's metrics.

    Args:
        runs: Runs of the whole study.
    """

    def __init__(self, *, runs: int) -> None:
        self._console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._all = self._bars.add_task("study", total=runs, note="")
        self._runs = runs
        self._done = 0
        self._seconds: list[float] = []
        self._begun = perf_counter()
        self._current: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, name: str) -> Callback:
        """Show a run that begins; return the callback that follows it."""
        self._current = self._bars.add_task(name, total=None, note="")
        self._begun = perf_counter()
        return _Follow(self._bars, self._current)

    def end(self, name: str, result: str) -> None:
        """Show what a run came to."""
        self._seconds.append(perf_counter() - self._begun)
        self._advance(f"{name:24} {result}")

    def skip(self, name: str) -> None:
        """Show that a run was recorded before."""
        self._advance(f"{name:24} recorded before")

    def _advance(self, line: str) -> None:
        self._done += 1
        if self._current is not None:
            self._bars.remove_task(self._current)
            self._current = None
        left = self._left()
        self._bars.update(self._all, completed=self._done, note=left)
        count = f"[{self._done:{len(str(self._runs))}}/{self._runs}]"
        self._console.print(f"{count} {line}  {left}".rstrip(), markup=False, highlight=False, soft_wrap=True)

    def _left(self) -> str:
        """Estimate the time left by the median run; the first alone, a pre-training perhaps, tells too little."""
        if len(self._seconds) < 2 or self._done >= self._runs:
            return ""
        seconds = median_low(self._seconds) * (self._runs - self._done)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


class _Follow(Callback):
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        shown = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        note = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        total = trainer.max_epochs or None
        self._bars.update(self._task, total=total, completed=trainer.current_epoch + 1, note=note)
