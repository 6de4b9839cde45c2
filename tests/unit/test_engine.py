"""Frozen means frozen: each test names the trap of the field that it closes (T1 to T24)."""

import copy
import math
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from rigs import ADAMW, SGD, Examples, Rig, Toy
from torch import nn

from frostline import audit
from frostline.depth import NORMS
from frostline.digest import digest, digests
from frostline.engine import Freezing
from frostline.errors import IntegrityError
from frostline.freeze.full import Full
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.lisa import Lisa
from frostline.freeze.lp_ft import LpFt
from frostline.freeze.only import Only
from frostline.freeze.strategy import FreezeStrategy

OPTIMIZERS = pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])


class Each(pl.Callback):
    """Calls a function before every training step, and after every validation."""

    def __init__(self, look) -> None:
        self.look = look

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.look(trainer)


def state(network: nn.Module) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in network.state_dict().items()}


@OPTIMIZERS
def test_frozen_parameters_and_buffers_are_bit_identical_t1_t2_t13(optimizer) -> None:
    rig = Rig(LastK(k=1), epochs=3, optimizer=optimizer)
    before = state(rig.network)
    rig.fit()
    changed = {name for name, value in state(rig.network).items() if value != before[name]}
    assert {name.split(".")[0] for name in changed} == {"third", "fc"}
    assert rig.freezing.audit.intact
    assert [a["span"] for a in rig.freezing.audit.findings] == ["epochs 0-2"]


@OPTIMIZERS
def test_optimizer_holds_no_state_of_what_never_trained_t13(optimizer) -> None:
    rig = Rig(Head(), epochs=2, optimizer=optimizer)
    trainer = rig.fit()
    free = {p for name, p in rig.network.named_parameters() if name.startswith("fc")}
    assert set(trainer.optimizers[0].state) == free


def test_frozen_norm_uses_stored_statistics_in_training_t3_and_dropout_is_off_t6() -> None:
    rig = Rig(Head(), epochs=1, optimizer=SGD)
    outputs = []

    def look(trainer) -> None:
        features = nn.Sequential(rig.network.conv, rig.network.norm, rig.network.first)
        outputs.append((features(Examples().inputs), copy.deepcopy(features).eval()(Examples().inputs)))

    rig.fit(Each(look))
    assert all(torch.equal(training, evaluating) for training, evaluating in outputs)


def test_what_trains_is_in_train_mode_also_if_it_came_in_eval_mode_t6() -> None:
    network = Toy().eval()
    rig = Rig(LastK(k=1), epochs=1, optimizer=SGD, network=network)
    modes = []
    rig.fit(Each(lambda trainer: modes.append({n: m.training for n, m in network.named_modules() if "drop" in n})))
    assert modes == [{"first.drop": False, "second.drop": False, "third.drop": True}] * 2


def test_modes_survive_train_sanity_check_and_validation_t4() -> None:
    rig = Rig(LastK(k=1), epochs=2, optimizer=SGD)
    rig.network.train()
    seen = []
    rig.fit(
        Each(lambda trainer: seen.append((rig.network.norm.training, rig.network.third.norm.training))),
        num_sanity_val_steps=1,
        val_check_interval=1,
    )
    assert seen == [(False, True)] * 4


@pytest.mark.parametrize(
    ("stats", "moving"),
    [("follow", {"third"}), ("frozen", set()), ("running", {"norm", "first", "second", "third"})],
)
def test_norm_stats_policy_moves_exactly_these_statistics(stats: str, moving: set[str]) -> None:
    rig = Rig(LastK(k=1, norm_stats=stats), epochs=1, optimizer=SGD)
    before = state(rig.network)
    rig.fit()
    after = state(rig.network)
    assert {name.split(".")[0] for name in before if "running" in name and before[name] != after[name]} == moving
    assert rig.freezing.audit.intact


@pytest.mark.parametrize(
    ("affine", "expected"), [("follow", {"third"}), ("frozen", set()), ("train", {"norm", "first", "second", "third"})]
)
def test_norm_affine_policy_trains_exactly_these_scales(affine: str, expected: set[str]) -> None:
    rig = Rig(LastK(k=1, norm_affine=affine), epochs=1, optimizer=SGD)
    before = state(rig.network)
    rig.fit()
    after = state(rig.network)
    norms = {n for s in rig.stages for n, role in s.roles.items() if role in NORMS}
    assert {name.split(".")[0] for name in norms if before[name] != after[name]} == expected


def test_gradients_flow_through_frozen_stages_to_trainable_ones_below_t11() -> None:
    rig = Rig(Only(stages=["stem"]), epochs=1, optimizer=SGD)
    before = state(rig.network)
    rig.fit()
    after = state(rig.network)
    assert {n.split(".")[0] for n in before if before[n] != after[n]} == {"conv", "norm"}


def test_a_frozen_prefix_builds_no_graph_t11() -> None:
    rig = Rig(LastK(k=1), epochs=1, optimizer=SGD)
    graphs = []
    rig.network.second.register_forward_hook(lambda m, i, out: graphs.append(out.requires_grad))
    rig.network.third.register_forward_hook(lambda m, i, out: graphs.append(out.requires_grad))
    rig.fit(limit_val_batches=0)
    assert graphs == [False, True] * 2


def test_thawing_starts_from_empty_state_and_never_from_another_parameters_t15() -> None:
    rig = Rig(LpFt(probe=0.5), epochs=2, optimizer=ADAMW)
    steps = []

    def look(trainer) -> None:
        moments = trainer.optimizers[0].state
        steps.append({n: int(moments[p]["step"]) for n, p in rig.network.named_parameters() if p in moments})

    rig.fit(Each(look))
    heads = {"fc.weight", "fc.bias"}
    assert [set(s) for s in steps] == [set(), heads, heads, {n for n, _ in rig.network.named_parameters()}]
    assert steps[3]["fc.weight"] == 3
    assert steps[3]["conv.weight"] == 1


class Narrowing(FreezeStrategy):
    """Trains everything, then freezes all but the head: what a stale gradient or momentum would show."""

    def scale(self, stage, role, progress) -> float:
        return float(progress.epoch == 0 or stage.from_head == 0)


@OPTIMIZERS
def test_freezing_in_mid_training_stops_momentum_decay_and_stale_gradients_t13_t14(optimizer) -> None:
    rig = Rig(Narrowing(), epochs=2, optimizer=optimizer)
    seen = []
    rig.fit(Each(lambda trainer: seen.append((state(rig.network.first), len(trainer.optimizers[0].state)))))
    assert seen[0][0] != seen[1][0]
    assert seen[2][0] == seen[3][0] == state(rig.network.first)
    assert [number for _, number in seen[2:]] == [2, 2]
    assert [(a["span"], a["intact"]) for a in rig.freezing.audit.findings] == [("epochs 0", True), ("epochs 1", True)]


def test_the_audit_catches_what_changes_a_frozen_tensor() -> None:
    rig = Rig(Head(), epochs=1, optimizer=SGD)

    def tamper(trainer) -> None:
        rig.network.norm.running_mean.add_(1)

    with pytest.raises(
        IntegrityError, match=r"1 frozen tensors changed in epochs 0: norm.running_mean; the run cannot"
    ):
        rig.fit(Each(tamper))
    assert not rig.freezing.audit.intact


class Tampering(pl.Callback):
    """Change what is frozen before the first phase is entered."""

    def on_fit_start(self, trainer, pl_module) -> None:
        pl_module.network.norm.running_mean.add_(1)


def test_the_audit_catches_what_changed_between_the_weights_that_were_given_and_the_first_step() -> None:
    rig = Rig(Head(), epochs=1, optimizer=SGD)
    rig.freezing = Freezing(rig.network, rig.plan, given=rig.unmoving)
    with pytest.raises(IntegrityError, match=r"changed in epochs 0: norm.running_mean; the run cannot"):
        rig.fit(Tampering())


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_what_was_hashed_before_is_not_hashed_again_unless_its_precision_is_another(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[set[str]] = []
    monkeypatch.setattr(audit, "digests", lambda tensors: hashed.append(set(tensors)) or digests(tensors))
    rig = Rig(Head(), epochs=1, optimizer=SGD)
    rig.freezing = Freezing(rig.network, rig.plan, given=rig.unmoving)
    floating = {name for name in rig.unmoving if not name.endswith("num_batches_tracked")}
    rig.fit(precision=precision)
    assert rig.freezing.audit.intact
    assert hashed == [set() if precision == "32-true" else floating, set(rig.unmoving)]


def test_the_audit_catches_a_norm_that_only_lost_its_gradients() -> None:
    """The field's usual freezing, `requires_grad=False` alone, moves the statistics; the audit says so."""
    rig = Rig(Head(), epochs=1, optimizer=SGD)
    with pytest.raises(IntegrityError, match="running_mean"):
        rig.fit(Each(lambda trainer: rig.network.norm.train()))


def test_a_parameter_that_its_author_froze_stays_frozen_t7() -> None:
    network = Toy()
    network.third.conv.weight.requires_grad_(False)
    rig = Rig(Full(), epochs=1, optimizer=SGD, network=network)
    before = state(network)
    rig.fit()
    weights = {n: value for n, value in state(network).items() if n.endswith("weight")}
    assert {n for n, value in weights.items() if value == before[n]} == {"third.conv.weight"}


def test_two_equal_parameters_are_two_t17() -> None:
    rig = Rig(Full(), epochs=1, optimizer=SGD)
    assert torch.equal(rig.network.first.norm.bias, rig.network.second.norm.bias)
    rig.fit()
    assert not torch.equal(rig.network.first.norm.bias, rig.network.second.norm.bias)
    assert rig.network.first.norm.bias.abs().sum() > 0


def test_every_parameter_is_in_one_group_at_every_phase_t16() -> None:
    rig = Rig(Gradual(every=1), epochs=5, optimizer=SGD)
    members = []
    rig.fit(Each(lambda t: members.append([id(p) for g in t.optimizers[0].param_groups for p in g["params"]])))
    assert all(m == members[0] for m in members)
    assert sorted(members[0]) == sorted(id(p) for p in rig.network.parameters())


def test_norms_and_biases_are_not_decayed_t18() -> None:
    rig = Rig(Gradual(every=1), epochs=1, optimizer=SGD)
    decays = {g["name"]: g["weight_decay"] for g in rig.fit().optimizers[0].param_groups}
    assert decays == {name: 0.01 if name.endswith("weight") else 0.0 for name in decays}
    assert len(decays) == 3 + 3 * 4 + 2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_trains_changes_between_optimizer_steps_never_within_one_t24(accumulate: int) -> None:
    rig = Rig(Lisa(seed=1, active=1, interval=1), epochs=6, optimizer=SGD)
    rig.plan = replace(rig.plan, per_epoch=2 // accumulate)
    rig.freezing = Freezing(rig.network, rig.plan)
    seen: list[tuple[int, frozenset[str]]] = []

    def look(trainer) -> None:
        free = {name.split(".")[0] for name, p in rig.network.named_parameters() if p.requires_grad}
        seen.append((trainer.global_step, frozenset(free)))

    rig.fit(Each(look), accumulate_grad_batches=accumulate)
    planned = {
        step: {name.split(".")[0] for g in rig.plan.groups if rig.plan.scales(step)[g.name] for name in g.parameters}
        for step in range(12 // accumulate)
    }
    assert [free for _, free in seen] == [planned[step] for step, _ in seen]
    assert len({free for _, free in seen}) == 3, "every stage between stem and head had its turn"
    assert rig.freezing.audit.intact
    assert len(rig.freezing.audit.findings) == len(rig.plan.phases)


class HalfRate(Narrowing):
    """Everything below the head at half the rate."""

    def scale(self, stage, role, progress) -> float:
        return 1.0 if stage.from_head == 0 else 0.5


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=8),
            lambda s: 0.05 * (1 + math.cos(math.pi * s / 8)),
        ),
        (lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: 1 / (1 + s)), lambda s: 0.1 / (1 + s)),
        (lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.1), lambda s: 0.1 * 0.1 ** (s // 2)),
        (
            lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=4),
            lambda s: 0.05 * (1 + math.cos(math.pi * (s % 4) / 4)),
        ),
    ],
    ids=["cosine", "lambda", "step", "restarts"],
)
def test_the_rate_of_each_group_is_schedule_times_scale_t19_t20_t21(scheduler, expected) -> None:
    """`rate` is what the optimizer really steps with, seen from inside its step."""
    rig = Rig(HalfRate(), epochs=4, optimizer=SGD)
    rig.module._scheduler = scheduler
    rates = []

    def watch(trainer) -> None:
        if not rates:
            trainer.optimizers[0].register_step_pre_hook(
                lambda o, *_: rates.append({g["name"]: g["lr"] for g in o.param_groups})
            )
            rates.append(None)

    rig.fit(Each(watch))
    for step, rate in enumerate(rates[1:]):
        assert rate["head.weight"] == pytest.approx(expected(step))
        assert rate["stem.weight"] == pytest.approx(0.5 * expected(step))
    assert len(rates) == 9


def test_empty_tensors_of_any_strides_have_a_hash() -> None:
    empty = torch.empty(0, dtype=torch.int64).as_strided((0,), (0,))
    assert digest(empty) == digest(torch.empty(0, dtype=torch.int64))
    assert digest(empty) != digest(torch.empty(0, dtype=torch.int32))
