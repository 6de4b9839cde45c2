"""The known wrong ways of freezing, each a few lines, each caught by the measure that the engine passes.

Where they are found is in the issue trackers named in the comments.
"""

import functools

import pytest
import pytorch_lightning as pl
import torch
from rigs import ADAMW, SGD, Examples, Rig, Toy
from torch import nn

from frostline.engine import Freezing
from frostline.errors import IntegrityError
from frostline.freeze.full import Full
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.optim.partition import partition


class Wrong(Freezing):
    """The engine, with one thing done as others do it."""


def run(engine: type[Freezing], strategy, *, optimizer=SGD, epochs: int = 2, **options) -> Rig:
    rig = Rig(strategy, epochs=epochs, optimizer=optimizer)
    rig.freezing = engine(rig.network, rig.plan)
    rig.fit(**options)
    return rig


class FlagsOnly(Wrong):
    """`requires_grad` and nothing else: Ludwig, the Trainer of transformers."""

    def _set_modes(self) -> None:
        self._network.train()


def test_flags_alone_let_statistics_drift_and_are_caught_t2() -> None:
    with pytest.raises(IntegrityError, match=r"frozen tensors changed in epochs 0-1: .*running_mean"):
        run(FlagsOnly, Head())
    assert run(Freezing, Head()).freezing.audit.intact


def gap(network: nn.Module) -> float:
    """How far a frozen layer's output in training is from that in evaluation."""
    inputs = Examples().inputs
    training = network.norm(network.conv(inputs))
    modes = [m.training for m in network.modules()]
    network.eval()
    evaluating = network.norm(network.conv(inputs))
    for module, mode in zip(network.modules(), modes, strict=True):
        module.training = mode
    return float((training - evaluating).abs().max().detach())


class Untracked(Wrong):
    """`track_running_stats = False`: Lightning's BaseFinetuning (its `freeze`), luxonis-train."""

    def _set_modes(self) -> None:
        for module in self._network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
                module.track_running_stats = False


@pytest.mark.parametrize(("engine", "right"), [(Freezing, True), (Untracked, False), (FlagsOnly, False)])
def test_statistics_of_the_batch_in_a_frozen_layer_show_in_its_output_t3(engine, right: bool) -> None:
    gaps: list[float] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            gaps.append(gap(rig.network))

    rig = Rig(Head(), epochs=1, optimizer=SGD)
    rig.freezing = engine(rig.network, rig.plan)
    try:
        rig.fit(Look(), limit_val_batches=0)
    except IntegrityError:
        assert not right
    assert (max(gaps) == 0) is right


def by_value(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Drop what equals another: Lightning's `filter_on_optimizer` uses `torch.equal`."""
    kept: list[nn.Parameter] = []
    for parameter in parameters:
        if not any(parameter.shape == other.shape and torch.equal(parameter, other) for other in kept):
            kept.append(parameter)
    return kept


def test_telling_parameters_apart_by_value_loses_some_and_identity_does_not_t17() -> None:
    network = Toy()
    for block in (network.first, network.second):
        nn.init.zeros_(block.conv.bias)
    everything = list(network.parameters())
    assert len(by_value(everything)) < len(everything)
    rig = Rig(Full(), epochs=1, optimizer=SGD, network=network)
    assert sum(len(group.parameters) for group in partition(rig.stages)) == len(everything)
    rig.fit()
    assert not torch.equal(network.first.conv.bias, torch.zeros(4))
    assert not torch.equal(network.second.conv.bias, torch.zeros(4))


@pytest.mark.parametrize(
    "schedule",
    [
        functools.partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
        functools.partial(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, T_0=4),
        functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20),
    ],
    ids=["lambda", "warm restarts", "one cycle"],
)
def test_a_group_added_after_the_schedule_breaks_it_and_a_static_partition_does_not_t16_t19(schedule) -> None:
    """`add_param_group` on thawing: Lightning's BaseFinetuning, finetuning-scheduler."""
    network = Toy()
    optimizer = torch.optim.SGD(network.fc.parameters(), lr=0.1)
    scheduler = schedule(optimizer)
    optimizer.step()
    optimizer.add_param_group({"params": list(network.third.parameters())})
    with pytest.raises((ValueError, KeyError)):
        scheduler.step()
    rig = Rig(Gradual(every=1), epochs=4, optimizer=SGD, scheduler=schedule)
    trainer = rig.fit()
    assert len(trainer.optimizers[0].param_groups) == len(rig.plan.groups)


class ZeroGradient(Wrong):
    """A gradient of zeros instead of none: the optimizer goes on moving the parameter by momentum and decay."""

    def _apply(self, phase, optimizers) -> None:
        for group in self.plan.groups:
            for parameter in group.parameters.values():
                if not phase.scales[group.name]:
                    parameter.grad = torch.zeros_like(parameter)
                    parameter.requires_grad_(False)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_zero_gradient_is_no_freezing_and_is_caught_t13_t14(optimizer) -> None:
    class Keep(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
            """Zero as `set_to_none=False` does."""

    with pytest.raises(IntegrityError, match="frozen tensors changed"):
        rig = Rig(Head(), epochs=1, optimizer=optimizer)
        rig.module.optimizer_zero_grad = lambda *_: [  # type: ignore[method-assign]
            p.grad.zero_() for p in rig.network.parameters() if p.grad is not None
        ]
        rig.freezing = ZeroGradient(rig.network, rig.plan)
        rig.fit(Keep(), limit_val_batches=0)


class RefreezingOnResume(Wrong):
    """What trains is taken from the state that the callback began with, not from progress: Lightning #21901."""

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        self._resumed = True

    def _enter(self, trainer, module) -> None:
        if getattr(self, "_resumed", False):
            trainer_epoch, trainer.fit_loop.epoch_progress.current.completed = trainer.current_epoch, 0
            super()._enter(trainer, module)
            trainer.fit_loop.epoch_progress.current.completed = trainer_epoch
        else:
            super()._enter(trainer, module)


@pytest.mark.parametrize(("engine", "right"), [(Freezing, True), (RefreezingOnResume, False)])
def test_a_resumed_run_trains_what_the_plan_says_now_t38(engine, right: bool, tmp_path) -> None:
    sizes: dict[bool, list[int]] = {}
    for resumed in (False, True):
        rig = Rig(Gradual(every=1), epochs=4, optimizer=SGD)
        rig.freezing = engine(rig.network, rig.plan)
        seen: list[int] = []

        class Look(pl.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx, seen=seen, rig=rig) -> None:
                seen.append(sum(p.numel() for p in rig.network.parameters() if p.requires_grad))

            def on_train_epoch_end(self, trainer, pl_module) -> None:
                if trainer.current_epoch == 2:
                    trainer.save_checkpoint(tmp_path / "half.ckpt")

        # The engine's state key is its class's name.
        rig.fit(Look(), ckpt_path=tmp_path / "half.ckpt" if resumed else None, weights_only=True if resumed else None)
        sizes[resumed] = seen
    assert (sizes[True] == sizes[False][-len(sizes[True]) :]) is right
    assert sizes[True]
