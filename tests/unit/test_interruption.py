"""Interrupted equals uninterrupted, bit for bit, wherever the cut falls (T37, T38)."""

import functools
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers.logger import Logger
from rigs import ADAMW, SGD, Examples, Rig
from torch.utils.data import DataLoader

from frostline.data.order import EpochOrder
from frostline.freeze.auto_rgn import AutoRgn
from frostline.freeze.auto_snr import AutoSnr
from frostline.freeze.autofreeze import AutoFreeze
from frostline.freeze.bitfit import BitFit
from frostline.freeze.chain_thaw import ChainThaw
from frostline.freeze.dora import Dora
from frostline.freeze.first_k import FirstK
from frostline.freeze.fisher_top_k import FisherTopK
from frostline.freeze.freeze_embed import FreezeEmbed
from frostline.freeze.freezeout import FreezeOut
from frostline.freeze.full import Full
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.ia3 import Ia3
from frostline.freeze.last_k import LastK
from frostline.freeze.layer_decay import LayerDecay
from frostline.freeze.linear_freeze import LinearFreeze
from frostline.freeze.lisa import Lisa
from frostline.freeze.lora import Lora
from frostline.freeze.lp_ft import LpFt
from frostline.freeze.norm import Norm
from frostline.freeze.only import Only
from frostline.freeze.phases import Phase, Plateau
from frostline.freeze.schedule import Schedule
from frostline.interruption import LAST, Continued, Interruption, position
from frostline.training import best_of, last_of

STRATEGIES = [
    Full(),
    Head(),
    LastK(k=1),
    FirstK(k=1),
    Only(stages=["body1", "head"]),
    Gradual(every=1),
    LpFt(probe=0.5),
    ChainThaw(),
    LayerDecay(),
    FreezeEmbed(),
    BitFit(),
    Norm(),
    FreezeOut(),
    LinearFreeze(start=0.25),
    Lisa(seed=0, active=1, interval=3),
    AutoFreeze(intervals=5),
    AutoRgn(batches=2),
    AutoRgn(as_in="paper", batches=2),
    AutoSnr(batches=2),
    AutoSnr(as_in="paper", batches=3),
    FisherTopK(k=1, examples=4),
    Schedule(
        phases=[
            Phase(train=["head"]),
            Phase(train=["all"], plateau=Plateau(patience=1)),
            Phase(train=["re:third.*", "head"], epoch=5, rate=0.5),
        ]
    ),
    Lora(rank=2),
    Dora(rank=2),
    Ia3(),
]
EPOCHS, STEPS = 7, 4


class Data(pl.LightningDataModule):
    """Sixteen examples in a new order each epoch; training can begin anywhere."""

    begin: dict[str, int] = {"epoch": 0, "batch": 0}  # noqa: RUF012

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(16, seed=0, batch_size=4)
        order.start(**self.begin)
        return DataLoader(_Wrapped(), batch_size=4, sampler=order, generator=torch.Generator())

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Examples(), batch_size=16, generator=torch.Generator())


class _Wrapped(Examples):
    def __getitem__(self, index: int):
        return super().__getitem__(index % 16)


class Lines(Logger):
    """Appends each metric to a file, so that a killed process leaves what it has logged."""

    name, version = "lines", 0

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def log_metrics(self, metrics, step=None) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps([name, step, float(value)]) + "\n" for name, value in metrics.items())

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        pass

    def history(self) -> dict[tuple[str, int], float]:
        """What a record keeps: of two values under one name and step, the first."""
        found: dict[tuple[str, int], float] = {}
        for line in self.path.read_text().splitlines():
            name, step, value = json.loads(line)
            found.setdefault((name, step), value)
        return found


class StopAt(Interruption):
    """Asks to stop once so many optimizer steps are done."""

    def __init__(self, folder: Path, step: int | None) -> None:
        super().__init__(folder / LAST)
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._asked = self._asked or trainer.global_step == self.step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @property
    def state_key(self) -> str:
        return "Interruption"


class Killed(Callback):
    """Ends a run as SIGKILL does: at once, and nobody writes anything."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise SystemExit


def train(
    strategy,
    folder: Path,
    *,
    stop: int | None = None,
    kill: int | None = None,
    optimizer=ADAMW,
    scheduler=None,
    averaging=None,
    network=None,
    **options,
):
    """Train, from the checkpoint in the folder where there is one; return what decides over all that follows."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    made = network() if network is not None else None
    rig = Rig(strategy, epochs=EPOCHS, optimizer=optimizer, per_epoch=STEPS, scheduler=scheduler, network=made)
    interruption, data, logger = StopAt(folder, stop), Data(), Lines(folder / "metrics")
    rig.module.unmoving = {} if averaging else rig.unmoving
    start = Continued(run_id="", folder=folder).checkpoint_in(folder, adopt=rig.module.adopt)
    if start is not None:
        data.begin = position(start)
    options = {"enable_checkpointing": True, "logger": logger, "num_sanity_val_steps": 1} | options
    best = best_of(folder)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    try:
        more = [averaging] if averaging is not None else []
        kept = (Killed(kill), best, last_of(folder))
        trainer = rig.fit(*kept, *more, interruption, data=data, ckpt_path=start, weights_only=True, **options)
    except (KeyboardInterrupt, SystemExit):
        return None
    return {
        "weights": rig.network.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "random": [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()],
        "metrics": logger.history(),
        "audits": rig.freezing.audit.findings,
        "decisions": rig.freezing.plan.decisions,
        "best": float(best.best_model_score),
    }


def same(one: object, other: object, path: str = "") -> None:
    """Assert that two nests of tensors are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{path}/{place}")
    elif not callable(one):
        assert one == other, path


def goes_on_exactly(strategy, folder: Path, cut: dict[str, int], **options) -> None:
    """Assert that a run which is cut so, and goes on, comes to what it would have without."""
    whole = train(strategy, folder / "whole", **options)
    assert train(strategy, folder / "cut", **cut, **options) is None
    same(train(strategy, folder / "cut", **options), whole)


def name(strategy) -> str:
    return type(strategy).__name__ + getattr(strategy, "as_in", "")


def boundaries(strategy) -> set[int]:
    """The steps around each change of what trains."""
    starts = {phase.start for phase in Rig(strategy, epochs=EPOCHS, optimizer=SGD, per_epoch=STEPS).plan.phases}
    around = {start + by for start in starts for by in (-1, 0, 1)} | {6}
    return {step for step in around if 0 < step < EPOCHS * STEPS}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES, ids=name)
def test_cut_around_every_phase_boundary_and_within_epochs_t37_t38(strategy, tmp_path: Path) -> None:
    whole = train(strategy, tmp_path / "whole")
    for step in sorted(boundaries(strategy)):
        folder = tmp_path / str(step)
        assert train(strategy, folder, stop=step) is None
        same(train(strategy, folder), whole, f"cut at {step}")


@pytest.mark.parametrize("step", [3, 8, 9, 27])
@pytest.mark.parametrize("strategy", [Gradual(every=2), Lisa(seed=0, active=1, interval=3), AutoFreeze()], ids=name)
def test_interrupted_is_uninterrupted_t37(strategy, step: int, tmp_path: Path) -> None:
    goes_on_exactly(strategy, tmp_path, {"stop": step})


@pytest.mark.parametrize(
    "options",
    [{"accumulate_grad_batches": 2}, {"val_check_interval": 2}, {"accumulate_grad_batches": 3}],
    ids=lambda o: str(o).strip("{}"),
)
@pytest.mark.parametrize("step", [1, 3, 6])
def test_cut_under_accumulation_and_with_validation_within_epochs(options, step: int, tmp_path: Path) -> None:
    goes_on_exactly(LpFt(probe=0.5), tmp_path, {"stop": step}, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"check_val_every_n_epoch": 2},
        {"val_check_interval": 2},
        {"val_check_interval": 3},
        {"check_val_every_n_epoch": None, "val_check_interval": 5},
        {"accumulate_grad_batches": 3, "val_check_interval": 2},
    ],
    ids=lambda o: str(o).strip("{}"),
)
@pytest.mark.parametrize("step", [5, 9, 11])
def test_killed_is_uninterrupted_wherever_validation_falls_t37(options, step: int, tmp_path: Path) -> None:
    goes_on_exactly(LpFt(probe=0.5), tmp_path, {"kill": step}, **options)


@pytest.mark.parametrize("step", [8, 10])
def test_a_schedule_that_waits_on_a_plateau_takes_the_step_at_the_cut_too(step: int, tmp_path: Path) -> None:
    def plateau(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)

    goes_on_exactly(Full(), tmp_path, {"stop": step}, scheduler=plateau)


def test_cut_many_times_over(tmp_path: Path) -> None:
    whole = train(AutoRgn(batches=2), tmp_path / "whole")
    for step in (2, 4, 7, 8, 13, 21):
        assert train(AutoRgn(batches=2), tmp_path / "cut", stop=step) is None
    same(train(AutoRgn(batches=2), tmp_path / "cut"), whole)


STILL = functools.partial(torch.optim.SGD, lr=0.0)
"""Nothing learns, so that all epochs are equally good."""


def test_patience_counts_over_the_whole_run_whatever_the_phase_and_is_resumed_t40(tmp_path: Path) -> None:
    epochs = {}
    for folder, stop in (("whole", None), ("cut", 5)):
        for start in (stop, None) if stop else (None,):
            early = EarlyStopping(monitor="val/loss", patience=3)
            result = train(
                Gradual(every=1, norm_stats="frozen"), tmp_path / folder, stop=start, optimizer=STILL, averaging=early
            )
        epochs[folder] = {step for name, step in result["metrics"] if name == "train/loss"}
    assert epochs["cut"] == epochs["whole"] == {3, 7, 11, 15}  # the first epoch, and three that are no better


def test_the_best_epoch_is_that_of_the_whole_run_and_of_equal_ones_the_first_t41(tmp_path: Path) -> None:
    class Keep(Callback):
        def __init__(self) -> None:
            self.kept: list[torch.Tensor] = []
            self.losses: list[float] = []

        def on_train_epoch_end(self, trainer, pl_module) -> None:
            self.kept.append(pl_module.network.fc.weight.detach().clone())
            self.losses.append(float(trainer.callback_metrics["val/loss"]))

    for optimizer in (ADAMW, STILL):
        keep, folder = Keep(), tmp_path / str(optimizer is STILL)
        train(Gradual(every=2, norm_stats="frozen"), folder, optimizer=optimizer, averaging=keep)
        best = torch.load(folder / "best.ckpt", weights_only=True)
        first = keep.losses.index(min(keep.losses))
        assert best["epoch"] == first
        assert torch.equal(best["state_dict"]["network.fc.weight"], keep.kept[first])
    assert first == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("strategy", STRATEGIES, ids=name)
def test_killed_at_twenty_random_points_t37(strategy, tmp_path: Path) -> None:
    """A process that is killed says nothing more; what it wrote before is all that the next one has."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    whole = train(strategy, tmp_path / "whole")
    took = time.perf_counter() - begun
    chance = random.Random(0)
    for kill in range(20):
        folder = tmp_path / str(kill)
        folder.mkdir()
        child = os.fork()
        if child == 0:
            train(strategy, folder)
            os._exit(0)
        time.sleep(chance.uniform(0.1, 1.0) * took)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        same(train(strategy, folder), whole, f"kill {kill}")
