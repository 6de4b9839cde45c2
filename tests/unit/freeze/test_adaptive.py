"""Strategies that decide from gradients, each against an independent statement of its definition."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rigs import ADAMW, SGD, Examples, Rig, ToyData
from torch import nn

from frostline.depth import NORMS, Outline, Place, Role
from frostline.engine import Freezing
from frostline.freeze.auto_rgn import AutoRgn
from frostline.freeze.auto_snr import AutoSnr
from frostline.freeze.autofreeze import AutoFreeze
from frostline.freeze.drawing import depths
from frostline.freeze.fisher_top_k import FisherTopK
from frostline.freeze.strategy import Decision
from frostline.signals import Sums, overflowed

STAGES = depths(["stem", "body1", "body2", "body3", "head"])
OUTLINE = Outline(stages=STAGES, places=[Place(stage=s, role=Role.WEIGHT, name=f"{s.name}.w") for s in STAGES])


def batches() -> list:
    return list(ToyData().train_dataloader())


def gradient(network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of the mean cross-entropy in evaluation mode, by `backward`."""
    network.eval()
    network.zero_grad()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    nn.functional.cross_entropy(network(inputs), targets).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def roles(rig: Rig) -> dict[str, Role]:
    return {name: role for stage in rig.stages for name, role in stage.roles.items()}


def first_decision(strategy) -> tuple[Rig, Decision]:
    rig = Rig(strategy, epochs=1, optimizer=SGD)
    rig.fit(limit_val_batches=0)
    fresh = Rig(strategy, epochs=1, optimizer=SGD)  # the same weights, as they were before training
    return fresh, rig.freezing.plan.decisions[0]


def test_auto_rgn_as_in_the_code_is_the_mean_ratio_of_norms_by_tensor_over_the_greatest() -> None:
    rig, decision = first_decision(AutoRgn(batches=2))
    found = [gradient(rig.network, b.inputs, b.targets) for b in batches()]
    learn = [name for name, role in roles(rig).items() if role not in NORMS]
    weights = {n: p.detach() for n, p in rig.network.named_parameters()}
    rgn = {n: np.mean([float(g[n].norm() / weights[n].norm()) for g in found]) for n in learn}
    expected = {n: value / max(rgn.values()) for n, value in rgn.items()}
    assert {n: s for n, s in decision.scales.items() if s} == pytest.approx(expected, rel=1e-4)


def test_auto_rgn_as_in_the_paper_is_one_ratio_a_stage() -> None:
    rig, decision = first_decision(AutoRgn(as_in="paper", batches=2))
    found = [gradient(rig.network, b.inputs, b.targets) for b in batches()]

    def ratio(stage, g) -> float:
        return math.sqrt(sum(g[n].square().sum() for n in stage.parameters)) / math.sqrt(
            sum(p.detach().square().sum() for p in stage.parameters.values())
        )

    rgn = {stage.depth.name: np.mean([ratio(stage, g) for g in found]) for stage in rig.stages}
    for stage in rig.stages:
        for name in stage.parameters:
            assert decision.scales[name] == pytest.approx(rgn[stage.depth.name] / max(rgn.values()), rel=1e-4)


def test_a_tensor_of_zeros_has_no_relative_norm_and_learns_at_the_full_rate() -> None:
    scales = AutoRgn().decide({"stem.w": 0.5, "body1.w": 2.0, "head.w": math.inf}, OUTLINE, [])
    assert scales == {"stem.w": 0.25, "body1.w": 1.0, "body2.w": 0.0, "body3.w": 0.0, "head.w": 1.0}


def test_auto_snr_as_in_the_code_compares_squares_with_the_variance_along_the_first_dimension() -> None:
    rig, decision = first_decision(AutoSnr(batches=2))
    found = [gradient(rig.network, b.inputs, b.targets) for b in batches()]
    for name, role in roles(rig).items():
        ratio = np.mean([float((g[name] ** 2 / (torch.var(g[name], 0) + 1e-8)).mean()) for g in found])
        assert decision.scales[name] == (role not in NORMS and ratio >= 0.95), name
    assert set(decision.scales.values()) == {0.0, 1.0}


def test_auto_snr_as_in_the_paper_is_the_squared_mean_over_the_variance_across_examples() -> None:
    rig, decision = first_decision(AutoSnr(as_in="paper", batches=6))
    examples = Examples()
    every = [gradient(rig.network, examples.inputs[i : i + 1], examples.targets[i : i + 1]) for i in range(6)]
    stacked = {name: torch.stack([g[name] for g in every]).double() for name in every[0]}
    ratios = {name: float((s.mean(0) ** 2 / s.var(0)).nanmean()) for name, s in stacked.items()}
    assert decision.signals == pytest.approx(ratios, rel=1e-3)
    assert decision.scales == {n: float(r / max(ratios.values()) >= 0.5) for n, r in ratios.items()}


def test_the_ratio_of_the_paper_is_the_same_at_every_scale_of_the_loss() -> None:
    every = [
        {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) + 1, "dead": torch.zeros(2)}
        for i in range(3)
    ]
    strategy = AutoSnr(as_in="paper", batches=3)
    plain, small = (
        strategy.signals([{n: scale * g for n, g in gradient.items()} for gradient in every], {}, OUTLINE)
        for scale in (1.0, 1e-6)
    )
    assert plain["w"] > 0.1
    assert small == pytest.approx(plain, rel=1e-3)
    assert plain["dead"] == 0.0


@pytest.mark.parametrize("lone", [torch.tensor(1e-6), torch.full((1, 3), 1e-6)], ids=["scalar", "row"])
def test_what_has_no_variance_trains_under_the_code_s_ratio(lone: torch.Tensor) -> None:
    outline = Outline(stages=STAGES, places=[Place(stage=STAGES[-1], role=Role.BIAS, name="lone")])
    strategy = AutoSnr()
    assert strategy.decide(strategy.signals([{"lone": lone}], {}, outline), outline, []) == {"lone": 1.0}


def test_where_nothing_is_signal_the_head_trains() -> None:
    scales = AutoSnr().decide({place.name: 0.1 for place in OUTLINE.places}, OUTLINE, [])
    assert scales == {"stem.w": 0.0, "body1.w": 0.0, "body2.w": 0.0, "body3.w": 0.0, "head.w": 1.0}


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_fisher_top_k_trains_the_stages_of_the_greatest_mean_squared_gradient(score: str) -> None:
    rig, decision = first_decision(FisherTopK(k=2, examples=10, score=score))
    examples = Examples()
    every = [gradient(rig.network, examples.inputs[i : i + 1], examples.targets[i : i + 1]) for i in range(10)]
    fisher = {}
    for stage in rig.stages:
        squares = [np.concatenate([g[n].numpy().ravel() ** 2 for n in stage.parameters]) for g in every]
        fisher[stage.depth.name] = float(getattr(np.stack(squares).mean(0), score)())
    assert decision.signals == pytest.approx(fisher, rel=1e-4)
    best = sorted((s for s in fisher if s != "head"), key=fisher.get)[-2:]
    trains = {stage.depth.name for stage in rig.stages for n in stage.parameters if decision.scales[n]}
    assert trains == {*best, "head"}


@pytest.mark.parametrize(
    ("now", "percentile", "frozen"),
    [  # before, each stage had 10
        ([10, 10, 10, 20, 10], 50, set()),  # changes 0, 0, 1: body1 reaches the median of 0
        ([10, 15, 12, 11, 10], 50, set()),  # body1 has changed most: it stays, and so does all behind it
        ([10, 11, 12, 15, 10], 50, {"stem", "body1"}),  # changes .1, .2, .5: body2 is the median
        ([10, 11, 12, 5, 10], 100, {"stem", "body1", "body2"}),  # of those that change, only the greatest stays
    ],
)
def test_autofreeze_freezes_up_to_the_first_stage_that_changed_as_much_as_the_percentile(
    now, percentile, frozen
) -> None:
    names = [stage.name for stage in STAGES]
    past = [Decision(step=5, signals=dict.fromkeys(names, 10.0), scales={f"{n}.w": 1.0 for n in names})]
    strategy = AutoFreeze(percentile=percentile)
    scales = strategy.decide(dict(zip(names, now, strict=True)), OUTLINE, past)
    assert {name for name in names if not scales[f"{name}.w"]} == frozen


def test_autofreeze_freezes_nothing_where_a_number_is_none() -> None:
    names = [stage.name for stage in STAGES]
    past = [Decision(step=5, signals=dict.fromkeys(names, 10.0), scales={f"{n}.w": 1.0 for n in names})]
    assert set(AutoFreeze().decide(dict.fromkeys(names, math.nan), OUTLINE, past).values()) == {1.0}


@pytest.mark.parametrize(
    ("scaler", "gradient", "said"), [(True, math.inf, True), (True, 1, False), (None, math.inf, False)]
)
def test_a_step_overflows_where_gradients_are_scaled_and_not_finite(scaler, gradient, said) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, gradient])
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    assert overflowed(trainer, {"w": parameter}) is said


def test_sums_are_of_what_was_added_and_begin_anew() -> None:
    parameter, sums = nn.Parameter(torch.zeros(2)), Sums()
    for gradient in ([1.0, 2.0], [3.0, -1.0]):
        parameter.grad = torch.tensor(gradient)
        sums.add({"w": parameter})
    assert sums.take({"w": parameter})["w"].tolist() == [4.0, 1.0]
    assert sums.take({"w": parameter})["w"].tolist() == [0.0, 0.0]


def test_autofreeze_starts_the_optimizer_anew_with_a_freeze_and_not_before() -> None:
    rig = Rig(AutoFreeze(intervals=4, percentile=100), epochs=4, optimizer=ADAMW)
    cleared = []

    class Watch(Freezing):
        def _decide(self, trainer, module, moment) -> None:
            taken, full = len(self.plan.decisions), bool(trainer.optimizers[0].state)
            super()._decide(trainer, module, moment)
            if len(self.plan.decisions) > taken:
                changed = taken and self.plan.decisions[-1].scales != self.plan.decisions[-2].scales
                assert full
                cleared.append((bool(changed), not trainer.optimizers[0].state))

    rig.freezing = Watch(rig.network, rig.plan)
    rig.fit(limit_val_batches=0)
    assert all(changed == emptied for changed, emptied in cleared)
    assert {(False, False), (True, True)} == set(cleared)


def test_autofreeze_sums_gradients_with_their_signs_and_never_freezes_less() -> None:
    rig = Rig(AutoFreeze(intervals=4), epochs=4, optimizer=SGD)
    seen: list[dict[str, torch.Tensor]] = []
    original = Freezing.on_before_optimizer_step

    class Watch(Freezing):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            original(self, trainer, pl_module, optimizer)
            seen.append({n: p.grad.clone() for n, p in rig.network.named_parameters() if p.grad is not None})

    rig.freezing = Watch(rig.network, rig.plan)
    rig.fit(limit_val_batches=0)
    decisions = rig.freezing.plan.decisions
    assert [decision.step for decision in decisions] == [2, 4, 6]
    for decision, steps in zip(decisions, (seen[0:2], seen[2:4], seen[4:6]), strict=True):
        for stage in rig.stages:
            total = sum(sum(g[n] for g in steps if n in g).abs().sum() for n in stage.parameters if n in steps[0])
            assert decision.signals[stage.depth.name] == pytest.approx(float(total), rel=1e-5)
    frozen = [{n for n, scale in decision.scales.items() if not scale} for decision in decisions]
    assert frozen[0] == set()
    assert frozen[1] <= frozen[2]
    assert rig.freezing.audit.intact


def test_a_probe_moves_nothing_and_draws_nothing() -> None:
    """The same run with a decision that changes nothing, and without any, ends in the same weights."""

    class Look(AutoRgn):
        fresh_state = "change"  # dropped where a factor changes: the first decision of all ones changes none

        def decide(self, signals, outline, past):
            return {place.name: 1.0 for place in outline.places}

    from frostline.freeze.full import Full

    ends = []
    for strategy in (Look(batches=2), Full()):
        rig = Rig(strategy, epochs=2, optimizer=ADAMW)
        rig.fit()
        ends.append(rig.network.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


def test_auto_rgn_as_in_the_code_starts_the_optimizer_anew_each_epoch_and_as_in_the_paper_keeps_it() -> None:
    steps = {}
    for as_in in ("code", "paper"):
        rig = Rig(AutoRgn(as_in=as_in, batches=1), epochs=3, optimizer=ADAMW)
        trainer = rig.fit()
        steps[as_in] = {int(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert steps == {"code": {2}, "paper": {6}}


def test_what_is_decided_while_training_is_drawn_as_such_before_and_as_it_was_after() -> None:
    rig = Rig(FisherTopK(k=1, examples=4), epochs=3, optimizer=SGD)
    assert rig.plan.picture().splitlines()[1:3] == ["stem  ???", "body1 ???"]
    rig.fit()
    rows = rig.freezing.plan.picture().splitlines()[1:6]
    assert sum(row.endswith("###") for row in rows) == 2
    assert sum(row.endswith("...") for row in rows) == 3
    assert [phase.span for phase in rig.freezing.plan.phases] == ["epochs 0-2"]
