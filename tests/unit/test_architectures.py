"""The engine's promises over several kinds of networks, each test named by the traps that it closes."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from networks import NETWORKS, Tied
from rigs import ADAMW, SGD, Rig
from test_interruption import same, train
from torch import nn

from frostline.digest import digest
from frostline.freeze.bitfit import BitFit
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.lisa import Lisa
from frostline.freeze.only import Only
from frostline.nn.stages import is_norm

EACH = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
STRATEGIES = [Head(), LastK(k=1), BitFit(), Gradual(every=1), Lisa(seed=0, active=1, interval=1)]


def state(network: nn.Module) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in network.state_dict().items()}


def built(make, strategy, *, epochs: int = 3, optimizer=ADAMW) -> Rig:
    torch.manual_seed(0)
    return Rig(strategy, epochs=epochs, optimizer=optimizer, network=make())


class Look(pl.Callback):
    def __init__(self, look) -> None:
        self.look = look

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.look(trainer)


@EACH
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_what_no_phase_trains_keeps_every_bit_and_the_rest_moves_t1_t2_t13(make, strategy) -> None:
    rig = built(make, strategy)
    before = state(rig.network)
    trainer = rig.fit()
    assert rig.freezing.audit.intact
    held = rig.plan.never_moves()
    after = state(rig.network)
    fixed = {name for group in rig.plan.groups for name in group.fixed}
    trained = {n for g in rig.plan.groups for n in g.parameters} - held - fixed
    assert all(after[name] == before[name] for name in held if name in before)
    assert all(after[name] != before[name] for name in trained)
    known = {id(p): n for n, p in rig.network.named_parameters()}
    assert {known[id(p)] for p in trainer.optimizers[0].state} <= trained


@EACH
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_flags_groups_and_the_plan_agree_at_every_step_t7_t8_t16(make, strategy) -> None:
    rig = built(make, strategy)

    def look(trainer) -> None:
        free = {id(p) for p in rig.network.parameters() if p.requires_grad}
        size = sum(p.numel() for p in rig.network.parameters() if p.requires_grad)
        assert size == rig.plan.trainable(rig.freezing.phase)
        held = [id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]]
        assert len(held) == len(set(held)) == len(list(rig.network.parameters()))
        assert free <= set(held)
        assert not any(rig.network.get_parameter(n).requires_grad for g in rig.plan.groups for n in g.fixed)

    rig.fit(Look(look))


@EACH
def test_frozen_stages_give_what_they_give_in_evaluation_and_trained_ones_drop_t3_t6(make) -> None:
    rig = built(make, LastK(k=1))
    seen = []

    def look(trainer) -> None:
        names = [name for stage in rig.stages[:-2] for name in stage.modules]
        modes = {name: rig.network.get_submodule(name).training for name in names}
        seen.append(modes)
        for name in names:
            module = rig.network.get_submodule(name)
            if isinstance(module, nn.Dropout) or is_norm(module):
                assert not module.training, name
        trained = [m for m in rig.stages[-2].modules.values() if isinstance(m, nn.Dropout)]
        assert all(module.training for module in trained)

    rig.fit(Look(look))
    assert seen


@EACH
def test_gradients_pass_through_what_is_frozen_t11(make) -> None:
    rig = built(make, Only(stages=["stem"]), optimizer=SGD)
    before = state(rig.network)
    rig.fit()
    moved = {n for n, v in state(rig.network).items() if v != before[n]}
    stem = {*rig.stages[0].parameters, *rig.stages[0].buffers}
    fixed = {n for g in rig.plan.groups for n in g.fixed}
    assert moved >= set(rig.stages[0].parameters) - fixed
    assert moved <= stem | {"back.weight"}  # the other name of a tied weight


def test_a_tied_weight_belongs_to_one_stage_and_trains_and_freezes_as_one_t10() -> None:
    rig = built(Tied, LastK(k=1))
    owners = [s.depth.name for s in rig.stages for n, p in s.parameters.items() if p is rig.network.there.weight]
    assert len(owners) == 1
    before = rig.network.there.weight.detach().clone()
    rig.fit()
    assert rig.network.there.weight is rig.network.back.weight
    assert torch.equal(rig.network.back.weight, before)  # the lower end is frozen, so is the upper


@EACH
@pytest.mark.parametrize("step", [3, 4, 9])
def test_interrupted_is_uninterrupted_t37(make, step: int, tmp_path) -> None:
    whole = train(Gradual(every=2), tmp_path / "whole", network=make)
    assert train(Gradual(every=2), tmp_path / "cut", stop=step, network=make) is None
    same(train(Gradual(every=2), tmp_path / "cut", network=make), whole)


class Renormalising(nn.BatchNorm2d):
    """A subclass of a user's own."""


@pytest.mark.parametrize(
    "kind", [nn.BatchNorm2d, nn.SyncBatchNorm, Renormalising, nn.InstanceNorm2d], ids=lambda k: k.__name__
)
def test_every_kind_of_layer_with_statistics_obeys_the_policy_t5(kind) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), kind(4, track_running_stats=True)
            self.flat = nn.BatchNorm1d(4)
            self.deep = nn.BatchNorm3d(4)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.deep(self.norm(self.conv(x)).unsqueeze(2)).squeeze(2)
            return self.fc(self.flat(x.mean((2, 3))))

    rig = built(Mixed, Head(), epochs=1)
    before = copy.deepcopy(rig.network.state_dict())
    rig.fit()
    assert all(torch.equal(value, before[n]) for n, value in rig.network.state_dict().items() if not n.startswith("fc"))
