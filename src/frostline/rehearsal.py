"""The first steps of a run, on a copy of it and against the clock."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pytorch_lightning.callbacks import Callback
from torch import nn

from frostline.batch import Batch
from frostline.cache.cut import Cut, size_of
from frostline.computed_once import cut_of
from frostline.config.build import build
from frostline.cost import Meter
from frostline.data.order import randomness_kept
from frostline.engine import Freezing
from frostline.freeze.full import Full
from frostline.instead import rehearse
from frostline.interruption import LAST, Interruption
from frostline.plan import Phase, Plan
from frostline.prepare import Prepared
from frostline.stopwatch import SAMPLES, Stopwatch
from frostline.training import best_of, last_of, quiet, writing

EVALUATED = 4
"""Batches of validation that a rehearsal looks at."""


def rehearsed(prepared: Prepared, phase: Phase, *, within: float) -> Stopwatch:
    """Train a copy for some steps of a phase, as a run does, and return what timed them.

    Args:
        prepared: The run.
        phase: Which phase of its plan.
        within: After how many seconds to end.
    """
    cut = cut_of(prepared, phase)
    copy, batches = _copied(prepared), SAMPLES + 2
    module, stages, groups = copy.module, copy.plan.stages, copy.plan.groups
    plan = _Held(strategy=Full(), stages=stages, groups=groups, epochs=2, per_epoch=batches, held=phase)
    freezing = Freezing(module.network, plan)
    watch = Stopwatch(freezing, within)
    with randomness_kept(), quiet(), TemporaryDirectory() as folder:
        zeros = [_Zeros(cut, module.network)] if cut else []
        kept = [best_of(Path(folder)), last_of(Path(folder)), Interruption(Path(folder) / LAST)]
        callbacks = [freezing, Meter(freezing), watch, *zeros, *kept]
        trainer = build(
            prepared.cfg.trainer,
            key="trainer",
            logger=False,
            callbacks=callbacks,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            max_epochs=2,
            devices=1,
            strategy="auto",
            limit_train_batches=batches,
            limit_val_batches=EVALUATED,
            **writing(prepared.cfg),
        )
        data = prepared.data
        trainer.fit(module, train_dataloaders=data.train_dataloader(), val_dataloaders=data.val_dataloader())
    return watch


def rehearsed_instead(prepared: Prepared, *, within: float) -> Stopwatch:
    """Do on a copy, for a few batches, what is done in place of training, and return what timed them.

    Args:
        prepared: The run.
        within: After how many seconds to end.
    """
    copy = _copied(prepared)
    freezing, cut = Freezing(copy.network, copy.plan), cut_of(prepared, copy.plan.phases[0])
    watch = Stopwatch(freezing, within)
    with randomness_kept(), quiet(), Meter(freezing).measuring():  # to count FLOPs takes time too
        alone = {"devices": 1, "strategy": "auto", "logger": False, "callbacks": [], "enable_progress_bar": False}
        device = build(prepared.cfg.trainer, key="trainer", **alone).strategy.root_device
        watch.on_gpu = device.type == "cuda"
        rehearse(
            copy, watch, device, most=SAMPLES + 1, giving=partial(_giving_zeros, cut, copy.network) if cut else None
        )
    return watch


def _copied(prepared: Prepared) -> Prepared:
    """Return the same run with a network of its own."""
    plan = prepared.plan
    module, stages, groups = deepcopy((prepared.module, plan.stages, plan.groups))
    return replace(prepared, module=module, plan=replace(plan, stages=stages, groups=groups))


@dataclass(frozen=True, kw_only=True)
class _Held(Plan):
    """A plan of one phase only."""

    held: Phase

    def known(self, step: int) -> bool:
        """Return that all is settled."""
        return True

    def scales(self, step: int) -> dict[str, float]:
        """Return the phase's factors."""
        return dict(self.held.scales)

    def modes(self, scales: Mapping[str, float]) -> dict[str, bool]:
        """Return the phase's modes."""
        return dict(self.held.modes)


class _Zeros(Callback):
    """Give the network, in place of what would be kept, zeros of the same size: a step takes as long.

    Args:
        cut: Where the network is cut.
        network: The network.
    """

    def __init__(self, cut: Cut, network: nn.Module) -> None:
        self._cut = cut
        self._network = network
        self._giving = ExitStack()

    def on_train_batch_start(self, trainer: object, pl_module: object, batch: Batch, batch_idx: int) -> None:
        """Give zeros in training."""
        self._give(batch)

    def on_train_batch_end(self, *_: object) -> None:
        """Let the network compute all of itself again."""
        self._giving.close()

    def on_validation_batch_start(self, trainer: object, pl_module: object, batch: Batch, *_: object) -> None:
        """Give zeros in validation."""
        self._give(batch)

    def on_validation_batch_end(self, *_: object) -> None:
        """Let the network compute all of itself again."""
        self._giving.close()

    def _give(self, batch: Batch) -> None:
        self._giving.enter_context(_giving_zeros(self._cut, self._network, batch))


def _giving_zeros(cut: Cut, network: nn.Module, batch: Batch) -> AbstractContextManager[None]:
    """Give the network, for a batch, zeros in place of what would be kept."""
    size, device = size_of(batch.inputs), next(network.parameters()).device
    return cut.giving(network, [shape.zeros(device) for shape in cut.shapes(size)], size)
