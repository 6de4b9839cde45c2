"""Counts by stage and pass, against arithmetic by hand and against torch's counter around real steps of Lightning."""

import os
from pathlib import Path

import pytest
import torch
from networks import Attentive, Tied
from rigs import SGD, Examples, Rig, Toy
from test_interruption import STRATEGIES, name
from torch import Tensor, nn

from frostline.batch import Batch
from frostline.config.compose import compose, options
from frostline.cost import Meter
from frostline.estimate import estimated
from frostline.flops import ELSEWHERE, Counting, Work, kind_of
from frostline.freeze.adaptive import Adaptive
from frostline.freeze.full import Full
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.lora import Lora
from frostline.freeze.only import Only
from frostline.freeze.schedule import Schedule
from frostline.freeze.strategy import Strategy
from frostline.instruments import Instruments
from frostline.prepare import Prepared, prepare
from frostline.regularizers.delta import Delta
from frostline.regularizers.l2_sp import L2SP
from frostline.training import quiet, train_and_test

# FLOPs of the toy's layers on one 3x6x6 image; a multiply-add is two operations.
STEM, BLOCK, HEAD = 2 * 36 * 4 * 27, 2 * 36 * 4 * 36, 2 * 4 * 3
FORWARD = {"stem": STEM, "body1": BLOCK, "body2": BLOCK, "body3": BLOCK, "head": HEAD}
NEEDED = {  # below the lowest parameter that trains nothing is computed, and nothing goes into the images
    "full": (Full(), {"body1", "body2", "body3", "head"}, set(FORWARD)),
    "head": (Head(), set(), {"head"}),
    "last_1": (LastK(k=1), {"head"}, {"body3", "head"}),
    "stem": (Only(stages=["stem"]), {"body1", "body2", "body3", "head"}, {"stem"}),
    "body2": (Only(stages=["body2"]), {"body3", "head"}, {"body2"}),
}


def examples(count: int = 8) -> Batch:
    data = Examples()
    return Batch(data.inputs[:count], data.targets[:count], torch.arange(count))


def counting(rig: Rig, batch: Batch | None = None) -> Counting:
    return Counting(module=rig.module, plan=rig.plan, batch=batch or examples())


def test_weights_that_are_rounded_for_the_backward_pass_do_not_grow_with_the_batch() -> None:
    """Also in a phase after one whose FLOPs were found to grow with it."""
    rig = Rig(LastK(k=2), epochs=1, optimizer=SGD)
    (phase,) = rig.plan.phases
    count = Counting(module=rig.module, plan=rig.plan, batch=examples(), autocast=torch.bfloat16)
    for _ in range(2):
        assert count.of(phase, examples=8).activations == count._step(phase, 8).activations


@pytest.mark.parametrize("strategy", NEEDED)
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_each_stage_computes_what_the_strategy_needs_of_it(strategy: str, size: int) -> None:
    made, inputs, weights = NEEDED[strategy]
    rig = Rig(made, epochs=1, optimizer=SGD)
    count = counting(rig).of(rig.plan.phases[0], examples=size)
    expected = {
        stage: Work(size * flops, size * flops * (stage in inputs), size * flops * (stage in weights))
        for stage, flops in FORWARD.items()
    }
    assert dict(count.work) == expected | {ELSEWHERE: Work()}
    assert count.flops == sum(map(sum, expected.values()))


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if not isinstance(s, Adaptive | Schedule)], ids=name)
@pytest.mark.parametrize("network", [Toy, Attentive, Tied], ids=lambda kind: kind.__name__)
def test_the_sum_is_what_torch_counts_on_real_steps(strategy: Strategy, network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    rig = Rig(strategy, epochs=4, optimizer=SGD, network=network())
    steps = [(phase, phase.stop - phase.start) for phase in rig.plan.phases]
    predicted = sum(counting(rig).of(phase, examples=8).flops * count for phase, count in steps)
    meter = Meter(rig.freezing)
    rig.fit(meter, limit_val_batches=0)
    assert meter.metrics()["cost/train_flops"] == predicted


@pytest.mark.parametrize("regularizer", [L2SP(), Delta(attention=False)], ids=["l2_sp", "delta"])
def test_a_penalty_is_part_of_the_count(regularizer: nn.Module) -> None:
    rig = Rig(LastK(k=1), epochs=2, optimizer=SGD, regularizer=regularizer)
    count = counting(rig).of(rig.plan.phases[0], examples=8)
    meter = Meter(rig.freezing)
    rig.fit(meter, limit_val_batches=0)
    assert meter.metrics()["cost/train_flops"] == 4 * count.flops
    teacher = 8 * sum(FORWARD.values()) if isinstance(regularizer, Delta) else 0
    assert count.work[ELSEWHERE] == Work(forward=teacher)


class EachWithEach(nn.Module):
    """Its FLOPs grow with the square of the number of examples, and a part of them does not grow at all."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.fc = nn.Linear(108, 2), nn.Linear(2, 108), nn.Linear(108, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = x @ (self.high.weight @ self.low.weight)
        return self.fc(torch.softmax(x @ x.T, 1) @ x)


def test_what_grows_with_the_square_of_the_batch_is_exact_too() -> None:
    rig = Rig(Full(), epochs=1, optimizer=SGD, network=EachWithEach())
    found = counting(rig, examples(16))
    whole = Counting(module=rig.module, plan=rig.plan, batch=examples(4))._step(rig.plan.phases[0], 4)
    assert found.of(rig.plan.phases[0], examples=4).work == whole.work
    assert not found.linear
    sixteen = found._step(rig.plan.phases[0], 16)
    assert found.of(rig.plan.phases[0], examples=16).work == sixteen.work


def test_a_low_rank_update_has_gradients_of_its_weights_alone() -> None:
    rig = Rig(Lora(stages=["body2"], types="conv", rank=2), epochs=1, optimizer=SGD)
    work = counting(rig).of(rig.plan.phases[0], examples=1).work
    down, up = 2 * 36 * 36 * 2, 2 * 36 * 2 * 4
    assert work["body1"] == Work(BLOCK, 0, 0)
    assert work["body2"] == Work(BLOCK + down + up, up, down + up)
    assert work["body3"] == Work(BLOCK, BLOCK, 0)


def test_kept_activations_are_those_that_autograd_holds() -> None:
    rig = Rig(Head(), epochs=1, optimizer=SGD)
    batch = examples()
    head = counting(rig).of(rig.plan.phases[0], examples=8).activations
    features, logits = 8 * 4 * 4, 8 * 3 * 4
    assert features + logits <= head <= features + 2 * logits + 8 * 8 + 8
    full = Rig(Full(), epochs=1, optimizer=SGD)
    more = counting(full).of(full.plan.phases[0], examples=8).activations
    assert more > 10 * 8 * 4 * 36 * 4 > head
    assert batch.inputs.requires_grad is False


def test_counting_touches_nothing() -> None:
    rig = Rig(LastK(k=1), epochs=1, optimizer=SGD)
    state = {key: value.clone() for key, value in rig.module.state_dict().items()}
    flags = [p.requires_grad for p in rig.network.parameters()]
    modes = [m.training for m in rig.module.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in rig.module.modules()]
    chance = torch.get_rng_state()
    counting(rig).of(rig.plan.phases[0], examples=8)
    assert all(torch.equal(value, state[key]) for key, value in rig.module.state_dict().items())
    assert [p.requires_grad for p in rig.network.parameters()] == flags
    assert all(p.grad is None for p in rig.network.parameters())
    assert [m.training for m in rig.module.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in rig.module.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), chance)


def test_phases_of_one_kind_are_those_in_which_the_same_trains_in_the_same_modes() -> None:
    rig = Rig(LastK(k=1), epochs=2, optimizer=SGD)
    first = rig.plan.phase(0, stop=1, scales=rig.plan.scales(0))
    slower = rig.plan.phase(1, stop=2, scales={k: v / 2 for k, v in rig.plan.scales(0).items()})
    other = Rig(Head(), epochs=2, optimizer=SGD).plan.phases[0]
    assert kind_of(first) == kind_of(slower) != kind_of(other)


NEEDS = {"only": ["freeze.stages=[body1,head]"], "chain_thaw": ["trainer.max_epochs=12"]}
DECIDING = {"auto_rgn", "auto_rgn_paper", "auto_snr", "auto_snr_paper", "autofreeze", "fisher_top_k"}
STATIC = [choice for choice in options("freeze") if choice not in DECIDING | {"fts_schedule"}]
SOON = {("resnet20", choice) for choice in ("full", "head", "bitfit", "lora", "bn_stats")}
DIGITS = ["data=digits", "data.shots=3", "data.val_shots=1", "optimizer.lr=1e-5"]
NETWORKS = {
    "resnet20": ["model=resnet20", *DIGITS],
    "resnet56": ["model=resnet56", *DIGITS],
    "resnet18": ["model=torchvision", "model.name=resnet18", "model.weights=null", *DIGITS, "data.image_size=64"],
    "minilm": [
        "model=transformers",
        "data=text",
        "data.shots=6",
        "data.val_shots=2",
        "data.max_length=8",
    ],  # every batch is as long
}


def minilm(shared: Path) -> list[str]:
    weights = Path(os.environ.get("FROSTLINE_MINILM", ""))
    if not (weights / "config.json").is_file():
        pytest.skip("the encoder of $FROSTLINE_MINILM is not here")
    splits = {"train": "train", "val": "dev", "test": "test"}
    return [f"model.name={weights}", *(f"data.{split}={shared}/data/sst2/{file}.tsv" for split, file in splits.items())]


def measured(prepared: Prepared, folder: Path) -> float:
    """Train for real and return what torch's counter made of the first step of each phase."""
    instruments = Instruments.of(prepared)
    with quiet():
        train_and_test(prepared, folder=folder, instruments=instruments, logger=None, start=None)
    return instruments.meter.metrics()["cost/train_flops"]


@pytest.mark.parametrize(
    ("network", "strategy"),
    [
        pytest.param(network, choice, marks=() if (network, choice) in SOON else pytest.mark.slow)
        for network in NETWORKS
        for choice in STATIC
        if network != "minilm" or choice not in ("bn_stats", "ridge")  # no statistics there, and no linear head
    ],
)
def test_every_static_strategy_takes_what_is_predicted(
    network: str, strategy: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frostline.prepare.refuse_random_parts", lambda *asked: None)  # scores are not looked at
    asked = [*NETWORKS[network], f"freeze={strategy}", "trainer.max_epochs=4", *NEEDS.get(strategy, ())]
    asked += minilm(request.getfixturevalue("shared")) if network == "minilm" else []
    run = ["data.batch_size=6", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"]
    cfg = compose("finetune", [*asked, *run, "trainer.limit_test_batches=0", "trainer.accelerator=cpu"])
    prepared = prepare(cfg, "finetune")
    predicted = estimated(prepared).flops
    assert predicted > 0
    assert predicted == measured(prepared, tmp_path / "run")
