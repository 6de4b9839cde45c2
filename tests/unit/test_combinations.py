"""What else people switch on, with every strategy: the plan holds, and results are those without it where they must be.

The table of the README lists these.
"""

import copy
import functools

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from rigs import ADAMW, Rig, Toy
from test_interruption import STRATEGIES, name, same, train
from torch import nn

from frostline.errors import IntegrityError
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.lisa import Lisa
from frostline.moving_average import MovingAverage
from frostline.nn.activation_checkpointing import recompute

EVERY = pytest.mark.parametrize(
    "strategy",
    [pytest.param(s, marks=() if isinstance(s, Gradual | Head) else pytest.mark.slow) for s in STRATEGIES],
    ids=name,
)
EPOCHS = 7
CALM = functools.partial(torch.optim.SGD, lr=1e-3)
"""So little a step that rounding does not grow."""


def frozen_at_last(rig: Rig) -> dict[str, torch.Tensor]:
    """What no phase of the plan as it came to be has trained."""
    names = rig.freezing.plan.never_moves()
    return {n: t for n, t in rig.network.state_dict().items() if n in names}


@EVERY
@pytest.mark.parametrize(
    "options",
    [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}],
    ids=["bf16-mixed", "accumulate", "clip"],
)
def test_trainer_options_leave_what_is_frozen_as_it_is_t23_t24_t25(strategy, options: dict) -> None:
    rig = Rig(strategy, epochs=EPOCHS, optimizer=ADAMW)
    before = {n: t.clone() for n, t in rig.network.state_dict().items()}
    rig.fit(**options)
    assert rig.freezing.audit.intact
    assert rig.freezing.audit.findings
    assert all(torch.equal(t, before[n]) for n, t in frozen_at_last(rig).items())
    assert not torch.equal(rig.network.fc.weight, before["fc.weight"]) or "Snr" in name(strategy)
    assert all(p.dtype == torch.float32 for p in rig.network.parameters())


def test_the_clipped_norm_is_that_of_what_trains_t23() -> None:
    """A frozen parameter with a huge gradient, were it counted, would leave nothing for the head."""
    norms = []

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            free = [p for n, p in rig.network.named_parameters() if n.startswith("fc")]
            norms.append(torch.stack([p.grad.norm() for p in free]).norm().item())
            assert all(p.grad is None for n, p in rig.network.named_parameters() if not n.startswith("fc"))

    rig = Rig(Head(), epochs=1, optimizer=functools.partial(torch.optim.SGD, lr=1.0))
    before = rig.network.fc.weight.detach().clone()
    rig.fit(Look(), gradient_clip_val=1e-3, limit_train_batches=1)
    moved = (rig.network.fc.weight.detach() - before).norm()
    assert norms[0] > 1e-3
    assert 0 < moved <= 1e-3 + 1e-6


def without_dropout() -> nn.Module:
    torch.manual_seed(0)
    network = Toy()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


@EVERY
def test_compiled_equals_eager_and_is_compiled_anew_at_each_change_t30(strategy) -> None:
    ends = []
    for compiled in (False, True):
        network = without_dropout()  # which compiled code draws in another order
        rig = Rig(strategy, epochs=EPOCHS, optimizer=ADAMW, network=network)
        if compiled:
            network.compile(backend="aot_eager")
        rig.fit(limit_val_batches=0)
        assert rig.freezing.audit.intact
        ends.append({n: p.detach() for n, p in network.named_parameters()})
    torch.compiler.reset()
    for parameter, value in ends[0].items():
        torch.testing.assert_close(ends[1][parameter], value, rtol=1e-4, atol=1e-5)


@EVERY
def test_maps_with_channels_last_give_the_same_run_but_for_rounding(strategy) -> None:
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network = without_dropout().to(memory_format=layout)  # dropout is drawn as numbers lie in memory
        maps = [p for p in network.parameters() if p.ndim == 4]
        rig = Rig(strategy, epochs=EPOCHS, optimizer=CALM, network=network)
        rig.fit()
        assert rig.freezing.audit.intact
        assert maps
        assert all(p.is_contiguous(memory_format=layout) for p in maps)
        ends.append(dict(rig.network.named_parameters()))
    for parameter, value in ends[0].items():
        torch.testing.assert_close(ends[1][parameter], value, rtol=1e-4, atol=1e-5)


@EVERY
def test_activations_computed_again_give_the_same_run_t29(strategy) -> None:
    ends = []
    for again in (False, True):
        torch.manual_seed(0)
        network = without_batch_norm(Toy())
        rig = Rig(strategy, epochs=EPOCHS, optimizer=ADAMW, network=network)
        if again:
            recompute(rig.stages)
        rig.fit()
        assert rig.freezing.audit.intact
        ends.append({n: p.detach() for n, p in network.named_parameters()})
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def without_batch_norm(network: nn.Module) -> nn.Module:
    for parent in list(network.modules()):
        for child, module in parent.named_children():
            if isinstance(module, nn.BatchNorm2d):
                setattr(parent, child, nn.GroupNorm(1, module.num_features))
    return network


def test_a_second_pass_runs_the_body_once_more_and_keeps_names_and_copies() -> None:
    network = without_batch_norm(Toy())
    rig = Rig(Head(), epochs=1, optimizer=ADAMW, network=network)
    names = list(network.state_dict())
    recompute(rig.stages)
    calls = []
    network.second.conv.register_forward_pre_hook(lambda *_: calls.append(1))
    network(torch.randn(2, 3, 6, 6)).sum().backward()
    assert len(calls) == 2
    assert list(network.state_dict()) == names
    assert isinstance(copy.deepcopy(network).second, type(network.second))


@EVERY
def test_a_moving_average_holds_what_is_frozen_and_validation_gives_the_weights_back_t27(strategy) -> None:
    rig = Rig(strategy, epochs=EPOCHS, optimizer=ADAMW)
    before = {n: t.clone() for n, t in rig.network.state_dict().items()}
    average = MovingAverage(decay=0.9)
    seen: list[tuple[str, torch.Tensor]] = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            seen.append(("end", rig.network.fc.weight.detach().clone()))

        def on_validation_start(self, trainer, pl_module) -> None:
            if not trainer.sanity_checking:
                seen.append(("before", rig.network.fc.weight.detach().clone()))

    rig.fit(Look(), average)
    assert rig.freezing.audit.intact
    assert all(torch.equal(t, before[n]) for n, t in frozen_at_last(rig).items())
    pairs = [value for _, value in seen]
    assert all(torch.equal(start, end) for start, end in zip(pairs[::2], pairs[1::2], strict=True))


def test_lightnings_own_average_changes_what_is_frozen_and_is_caught_t27() -> None:
    """The wrong implementation: a weighted sum of two equal numbers is not that number."""
    rig = Rig(Head(), epochs=EPOCHS, optimizer=ADAMW)
    with pytest.raises(IntegrityError, match="frozen tensors changed in epochs 0-6"):
        rig.fit(EMAWeightAveraging(decay=0.9))


@pytest.mark.parametrize("step", [4, 9])
def test_a_moving_average_is_resumed_t27(step: int, tmp_path) -> None:
    more = {"averaging": MovingAverage(decay=0.9)}
    whole = train(Gradual(every=2), tmp_path / "whole", **more)
    more = {"averaging": MovingAverage(decay=0.9)}
    assert train(Gradual(every=2), tmp_path / "cut", stop=step, **more) is None
    same(train(Gradual(every=2), tmp_path / "cut", averaging=MovingAverage(decay=0.9)), whole)


def test_rates_that_change_within_an_epoch_hold_under_accumulation_t24() -> None:
    rig = Rig(Lisa(seed=0, active=1, interval=1), epochs=4, optimizer=ADAMW, per_epoch=1)
    rig.fit(accumulate_grad_batches=2)
    assert rig.freezing.audit.intact
