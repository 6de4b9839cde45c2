"""Several processes train as one: the same parameters everywhere, and those of one process on the same batches."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from rigs import ADAMW, SGD, Examples, Rig, Toy
from together import together
from torch import nn
from torch.utils.data import DataLoader

import frostline.engine
from frostline.checkpoint import weights_hash
from frostline.data.order import EpochOrder, Share
from frostline.freeze.auto_rgn import AutoRgn
from frostline.freeze.auto_snr import AutoSnr
from frostline.freeze.autofreeze import AutoFreeze
from frostline.freeze.chain_thaw import ChainThaw
from frostline.freeze.fisher_top_k import FisherTopK
from frostline.freeze.freezeout import FreezeOut
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.linear_freeze import LinearFreeze
from frostline.freeze.lisa import Lisa
from frostline.freeze.lora import Lora
from frostline.freeze.lp_ft import LpFt
from frostline.freeze.phases import Phase, Plateau
from frostline.freeze.schedule import Schedule
from frostline.interruption import LAST, Continued, Interruption, position
from frostline.processes import data_parallel, join

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

TIME_VARYING = [
    Gradual(every=1),
    LpFt(probe=0.5),
    ChainThaw(),
    FreezeOut(),
    LinearFreeze(start=0.25),
    Lisa(seed=0, active=1, interval=1),
    AutoFreeze(intervals=5),
    AutoRgn(batches=1),
    AutoRgn(as_in="paper", batches=1),
    AutoSnr(batches=2),
    AutoSnr(as_in="paper", batches=2),
    FisherTopK(k=1, examples=2),
    Schedule(phases=[Phase(train=["head"]), Phase(train=["all"], plateau=Plateau(patience=1))]),
    Lora(rank=2),
]
QUICK = [Gradual(every=1), Lisa(seed=0, active=1, interval=1), AutoRgn(batches=1)]
EPOCHS = 7


class Data(pl.LightningDataModule):
    """Sixteen examples, of which each process has its share; eight make a global batch."""

    begin: dict[str, int] = {"epoch": 0, "batch": 0}  # noqa: RUF012

    def _place(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world": self.trainer.world_size}

    def train_dataloader(self) -> DataLoader:
        size = 8 // self._place()["world"]
        order = EpochOrder(16, seed=0, batch_size=size, **self._place())
        order.start(**self.begin)
        return DataLoader(_Wrapped(), batch_size=size, sampler=order, generator=torch.Generator())

    def val_dataloader(self) -> DataLoader:
        """Three in a batch: the processes evaluate different numbers of them."""
        return DataLoader(Examples(), batch_size=3, sampler=Share(16, **self._place()), generator=torch.Generator())


class _Wrapped(Examples):
    def __getitem__(self, index: int):
        return super().__getitem__(index % 16)


class Look(pl.Callback):
    """Notes a hash of all parameters at every batch, and how many gradients are communicated for it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.hashes: list[str] = []
        self.sent: list[int] = []
        self.trainable: list[int] = []
        self.losses: list[float] = []
        self._hooked: object = None

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if "train/loss" in trainer.callback_metrics:
            self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.hashes.append(weights_hash(dict(self.rig.network.named_parameters())))
        self.trainable.append(sum(p.numel() for p in self.rig.network.parameters() if p.requires_grad))
        self.sent.append(0)
        wrapped = trainer.strategy.model
        if trainer.world_size > 1 and wrapped is not self._hooked:
            wrapped.register_comm_hook(None, self._count)
            self._hooked = wrapped

    def _count(self, state: object, bucket) -> torch.futures.Future[torch.Tensor]:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        self.sent[-1] += bucket.buffer().numel()
        return allreduce_hook(None, bucket)


def without_dropout(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def train(strategy, *callbacks, world: int, optimizer=SGD, network=None, epochs=EPOCHS, **more) -> dict:
    torch.manual_seed(0)
    rig = Rig(strategy, epochs=epochs, optimizer=optimizer, network=network)
    look = Look(rig)
    spread = {"strategy": data_parallel("ddp"), "devices": world} if world > 1 else {}
    join()
    trainer = rig.fit(look, *callbacks, data=more.pop("data", Data()), use_distributed_sampler=False, **spread, **more)
    return {
        "weights": {n: p.detach().clone() for n, p in rig.network.named_parameters()},
        "hashes": look.hashes,
        "sent": look.sent,
        "trainable": look.trainable,
        "train_losses": [*look.losses, float(trainer.callback_metrics["train/loss"])],
        "decisions": [decision.scales for decision in rig.freezing.plan.decisions],
        "loss": float(trainer.callback_metrics["val/loss"]),
        "accuracy": float(trainer.callback_metrics["val/accuracy"]),
    }


def check(strategy, world: int) -> None:
    """Train in several processes and in one, and compare."""

    def fixed(**options) -> dict:  # batches' own statistics differ from process to process, as dropout does
        held = replace(strategy, norm_stats="frozen")
        return train(held, network=without_dropout(Toy()), **options)

    ranks = together(world, lambda rank: fixed(world=world))
    assert all(isinstance(result, dict) for result in ranks), ranks
    for other in ranks[1:]:
        assert other["hashes"] == ranks[0]["hashes"]  # T31: before every step, after every change
        assert other["decisions"] == ranks[0]["decisions"]  # T33
        assert (other["loss"], other["accuracy"]) == (ranks[0]["loss"], ranks[0]["accuracy"])
    assert ranks[0]["sent"] == ranks[0]["trainable"]  # T32: no dead gradient is communicated, and none is missing
    alone = fixed(world=1)
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(ranks[0]["weights"][name], weight, rtol=1e-4, atol=1e-5)
    assert ranks[0]["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert ranks[0]["accuracy"] == alone["accuracy"]  # T47: each example in one process


def name(strategy) -> str:
    return type(strategy).__name__ + getattr(strategy, "as_in", "")


@pytest.mark.parametrize("strategy", QUICK, ids=name)
def test_two_processes_are_one_t31_t32_t33_t47(strategy) -> None:
    check(strategy, 2)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("strategy", TIME_VARYING, ids=name)
def test_every_strategy_that_varies_in_two_and_four_processes_t31_t32_t33_t47(strategy, world: int) -> None:
    check(strategy, world)


def test_what_thaws_without_being_wrapped_anew_drifts_and_is_caught_t31(monkeypatch) -> None:
    """The order of Lightning's callbacks: freeze, wrap, thaw later."""
    monkeypatch.setattr(frostline.engine, "wrap_anew", lambda strategy: None)

    def wrong(rank: int) -> dict:
        network = Toy()
        strategy = Gradual(every=1)

        class FreezeFirst(pl.Callback):
            def setup(self, trainer, pl_module, stage) -> None:
                for n, p in network.named_parameters():
                    p.requires_grad_(n.startswith("fc"))

        return train(strategy, FreezeFirst(), world=2, network=network, epochs=3)

    said = together(2, wrong)
    assert said[0] == said[1]
    assert said[0] == (
        "IntegrityError: process 1 has come to other parameters than process 0 in epochs 1; the run cannot be believed"
    )


class WithAux(Toy):
    """A layer that trains and that no loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(4, 3)


def test_what_trains_without_a_part_in_the_loss_is_named_t34() -> None:
    said = together(2, lambda rank: train(Head(), world=2, network=WithAux(), epochs=1))
    assert (
        said
        == [
            "RequestError: trainer.strategy: aux.weight, aux.bias train, but had no part in the loss; freeze them, or "
            "choose trainer.strategy=ddp_find_unused_parameters_true"
        ]
        * 2
    )


class StopAt(Interruption):
    """Stops once so many steps are done; only the second process was told to."""

    def __init__(self, folder: Path, step: int | None) -> None:
        super().__init__(folder / LAST)
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._asked = self._asked or (trainer.global_step == self.step and trainer.global_rank == 1)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @property
    def state_key(self) -> str:
        return "Interruption"


def test_two_processes_stop_at_one_step_and_go_on_as_if_they_had_not_t37(tmp_path: Path) -> None:
    def run(folder: Path, stop: int | None, start: Path | None = None) -> list:
        def one(rank: int) -> dict:
            torch.manual_seed(rank)  # each process has dropout of its own
            data = Data()
            if start is not None:
                data.begin = position(start)
            return train(
                Gradual(every=2),
                StopAt(folder, stop),
                ModelCheckpoint(folder, save_last=True, enable_version_counter=False),
                world=2,
                optimizer=ADAMW,
                data=data,
                ckpt_path=start,
                weights_only=True,
                enable_checkpointing=True,
            )

        return together(2, one)

    whole = run(tmp_path / "whole", None)
    (tmp_path / "cut").mkdir()
    stopped = run(tmp_path / "cut", 5)
    assert all(isinstance(said, str) and said.startswith(("KeyboardInterrupt", "SystemExit")) for said in stopped)
    start = Continued(run_id="", folder=tmp_path / "cut").checkpoint_in(tmp_path / "cut", adopt=lambda _: None)
    resumed = run(tmp_path / "cut", None, start)
    for before, after in zip(whole, resumed, strict=True):
        assert isinstance(after, dict), after
        assert before["hashes"][-1] == after["hashes"][-1]
        assert all(torch.equal(before["weights"][n], after["weights"][n]) for n in before["weights"])
        epochs = len(after["train_losses"])
        assert 1 < epochs < len(before["train_losses"])  # the first of these was cut
        assert after["train_losses"] == before["train_losses"][-epochs:]
