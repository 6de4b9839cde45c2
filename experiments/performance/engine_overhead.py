"""What the engine adds to a training step, against a plain PyTorch loop with the same freezing.

Steps of the two alternate in one process: behind each step that Lightning and the engine take on one network, a plain
loop takes the same step on a twin. The engine's own time is that spent in its hooks, those of the optimizer included;
what else Lightning adds is in the ratio of the whole steps. Figures are medians. Run it on a quiet machine:

    python experiments/performance/engine_overhead.py [steps]
"""

import logging
import platform
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from statistics import median
from time import perf_counter

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

import frostline.engine
from frostline.audit import digest
from frostline.batch import Batch
from frostline.engine import Freezing, _restore_rates
from frostline.freeze.autofreeze import AutoFreeze
from frostline.freeze.full import Full
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.lisa import Lisa
from frostline.freeze.strategy import Strategy
from frostline.modules import FineTuning
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.stages import stages
from frostline.objectives.classification import Classification
from frostline.optim.partition import partition
from frostline.optim.schedules import constant
from frostline.plan import Plan

BATCH, WARM = 128, 5
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


class Timed(Freezing):
    """The engine, with the time that its hooks take in each step."""

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        super().__init__(network, plan)
        self.spent = 0.0
        for name in ("on_train_batch_start", "on_before_optimizer_step", "_scale_rates"):
            setattr(self, name, self._timed(getattr(self, name)))
        frostline.engine._restore_rates = self._timed(_restore_rates)

    def _timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: object) -> None:
            begun = perf_counter()
            hook(*arguments)
            self.spent += perf_counter() - begun

        return timed

    def taken(self) -> float:
        """Return the seconds since this was asked last."""
        spent, self.spent = self.spent, 0.0
        return spent


class Alternating(pl.Callback):
    """Takes a plain step behind each step of Lightning, and times both."""

    def __init__(self, twin: nn.Module, freezing: Timed) -> None:
        self.twin, self.freezing = twin, freezing
        self.optimizer = SGD(twin.parameters())
        self.whole: list[float] = []
        self.engine: list[float] = []
        self.plain: list[float] = []
        self.since = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Freeze the twin as the network is frozen; this is not timed."""
        if not self.since:
            self.since = perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Take the step of a plain loop."""
        self.whole.append(perf_counter() - self.since)
        self.engine.append(self.freezing.taken())
        self._freeze(pl_module.network)
        begun = perf_counter()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.twin(batch.inputs), batch.targets)
        loss.backward()
        self.optimizer.step()
        loss.item()
        self.plain.append(perf_counter() - begun)
        self.since = perf_counter()

    def _freeze(self, network: nn.Module) -> None:
        for mine, theirs in zip(self.twin.parameters(), network.parameters(), strict=True):
            mine.requires_grad_(theirs.requires_grad)
            if not mine.requires_grad:
                mine.grad = None
        for mine, theirs in zip(self.twin.modules(), network.modules(), strict=True):
            mine.training = theirs.training


class Data(pl.LightningDataModule):
    """One batch again and again: loading is not what is measured."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        inputs, targets = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
        self.batches = [Batch(inputs, targets, torch.arange(BATCH))] * steps

    def train_dataloader(self) -> DataLoader:
        """Give the batches as they are."""
        return DataLoader(self.batches, batch_size=None)


def measure(strategy: Strategy, steps: int) -> tuple[float, float, float, float]:
    """Return seconds, medians of: a plain step, one with Lightning and engine, of the engine; and an audit's hashes."""
    torch.manual_seed(0)
    network = CifarResNet(depth=20).network(10)
    parts = stages(network, torch.zeros(2, 3, 32, 32))
    plan = Plan(strategy=strategy, stages=parts, groups=partition(parts, strategy.grain), epochs=1, per_epoch=steps)
    freezing = Timed(network, plan)
    module = FineTuning(
        network,
        Classification(),
        regularizer=None,
        groups=plan.groups,
        optimizer=SGD,
        scheduler=constant,
        classes=10,
    )
    alternating = Alternating(deepcopy(network), freezing)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, callbacks=[freezing, alternating], **options
    )
    trainer.fit(module, datamodule=Data(steps))
    begun = perf_counter()
    for tensor in network.state_dict().values():
        digest(tensor)
    hashing = perf_counter() - begun
    figures = (alternating.plain, alternating.whole, alternating.engine)
    plain, whole, engine = (median(times[WARM:]) for times in figures)
    return plain, whole, engine, hashing


def main() -> None:
    """Print a table."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    print(f"ResNet-20, {BATCH} images of 32x32, SGD; {steps} steps each; torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, {platform.machine()}\n")
    print("| strategy | plain step, ms | the engine adds, ms | of a step | whole step, ratio | an audit's hashes, ms |")
    print("|---|---|---|---|---|---|")
    strategies = [Full(), Head(), LastK(k=1), Lisa(seed=0, active=1, interval=5), AutoFreeze(intervals=10)]
    for strategy in strategies:
        plain, whole, engine, hashing = measure(strategy, steps)
        name, share = type(strategy).__name__, engine / plain
        print(f"| {name} | {1000 * plain:.1f} | {1000 * engine:.3f} | {share:.3%} ", end="")
        print(f"| {whole / plain:.4f} | {1000 * hashing:.1f} |")


if __name__ == "__main__":
    main()
