"""A cut lies as deep in the first stage that trains as all before it is frozen, where that can be proved."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from networks import Attentive
from rigs import Toy
from test_cut import CLASSES, images
from test_cuts import ASKED
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from frostline.cache import cuts
from frostline.cache.cut import Cut, NotExact, size_of
from frostline.cache.find_cut import find_cut, judge_of
from frostline.cache.parts import parts_before, stage_in_part
from frostline.config.compose import compose
from frostline.estimate import estimated
from frostline.flops import set_phase
from frostline.forecast import as_text
from frostline.freeze.norm import Norm
from frostline.freeze.schedule import Schedule
from frostline.freeze.strategy import Strategy
from frostline.nn.calls import watch
from frostline.nn.stages import stages
from frostline.objectives.classification import Classification
from frostline.optim.partition import partition
from frostline.plan import Plan
from frostline.prepare import Prepared, prepare

LAST_BLOCK = r"[{train:['re:layer3\.2\..*',head]}]"


def training(*selectors: str) -> Schedule:
    return Schedule(phases=[{"train": selectors}])


def vit() -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 4, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    return models.VisionTransformer(**sizes, num_classes=CLASSES)


def resnet50() -> nn.Module:
    return models.resnet50(num_classes=CLASSES)


def plan_of(network: nn.Module, strategy: Strategy) -> Plan:
    parts = stages(network, images().inputs[:2])
    return Plan(strategy=strategy, stages=parts, groups=partition(parts, strategy.grain), epochs=2)


def found(network: nn.Module, strategy: Strategy) -> list[tuple[str, ...]]:
    plan = plan_of(network, strategy)
    (phase,) = plan.phases
    stage = stage_in_part(plan, phase)
    calls = watch(network, images().inputs[:2])
    return [] if stage is None else list(parts_before(network, plan, phase, stage, calls))


LAYER = "encoder.layers.encoder_layer_3"
PARTS: dict[str, tuple[Callable[[], nn.Module], Strategy, list[tuple[str, ...]]]] = {
    "the last block": (resnet50, training(r"re:layer4\.2\..*"), [("layer4.0", "layer4.1")]),
    "its last convolution": (
        resnet50,
        training(r"re:layer4\.2\.conv3\..*"),
        [
            ("layer4.0", "layer4.1", *(f"layer4.2.{name}" for name in ("conv1", "bn1", "conv2", "bn2"))),
            ("layer4.0", "layer4.1"),
        ],
    ),
    "the first block": (resnet50, training(r"re:layer4\.0\..*"), []),
    "all of a stage": (resnet50, training("body4", "head"), []),
    "the head": (resnet50, training("head"), []),
    "what normalises": (resnet50, Norm(), [("conv1",)]),
    "a multilayer perceptron": (
        vit,
        training(r"re:.*encoder_layer_3\.mlp\..*"),
        [tuple(f"{LAYER}.{name}" for name in ("ln_1", "self_attention", "dropout", "ln_2"))],
    ),
    "an attention's own projection": (vit, training(r"re:.*layer_3\.self_attention\.out.*"), [(f"{LAYER}.ln_1",)]),
    "behind a dropout": (Attentive, training(r"re:third\.linear2\..*"), [("third.self_attn",)]),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_are_what_the_pass_has_left_before_anything_trains_or_draws(case: str) -> None:
    build, strategy, parts = PARTS[case]
    assert found(build(), strategy) == parts


def cut_within(network: nn.Module, strategy: Strategy, parts: tuple[str, ...] | None = None) -> Cut:
    plan = plan_of(network, strategy)
    (phase,) = plan.phases
    asked = {"parts": found(network, strategy)[0] if parts is None else parts, "batch": images()}
    depth = plan.frozen_prefix(phase)
    return find_cut(network, plan.stages, depth, phase.modes, **asked, judge=judge_of(Classification()))


WITHIN = pytest.mark.parametrize(
    ("build", "selector", "kept"),
    [
        (lambda: models.resnet18(num_classes=CLASSES), r"re:layer4\.1\..*", 1),
        (vit, r"re:.*encoder_layer_3\.mlp\..*", 3),
        (lambda: Toy(classes=CLASSES), r"re:third\.norm\..*", 2),
        (lambda: Toy(classes=CLASSES), r"re:norm\..*", 1),
    ],
    ids=["resnet18", "vit", "toy", "stem"],
)


@WITHIN
def test_other_examples_come_out_the_same_within_a_stage(build, selector: str, kept: int) -> None:
    torch.manual_seed(0)
    network, other, judge = build(), images(4), judge_of(Classification())
    cut = cut_within(network, training(selector, "head"))
    network.eval()
    real = judge(network, other)
    tensors = cut.taken(network, other.inputs)
    assert len(tensors) == kept
    with cut.giving(network, tensors, size_of(other.inputs)):
        ours = judge(network, other._replace(inputs=torch.full_like(other.inputs, torch.nan)))
    torch.testing.assert_close(ours, real, rtol=1e-4, atol=1e-5)


@WITHIN
def test_what_a_step_is_spared_is_what_torch_counts(build, selector: str, kept: int) -> None:
    network, batch, judge = build(), images(4), judge_of(Classification())
    plan = plan_of(network, training(selector, "head"))
    cut = cut_within(network, plan.strategy)
    tensors = cut.taken(network.eval(), batch.inputs)
    set_phase(network, plan, plan.phases[0])
    steps = []
    for given in (nullcontext(), cut.giving(network, tensors, size_of(batch.inputs))):
        with given, FlopCounterMode(display=False) as step:
            judge(network, batch)[0].backward()
        steps.append(step.get_total_flops())
    assert steps[0] - steps[1] == len(tensors[0]) * cut.spared > 0
    assert len(tensors) == kept


class Reading(nn.Conv2d):
    """A convolution that looks at the weight of another one."""

    other: list[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.other[0].weight.sum()


class Drawing(nn.Conv2d):
    """A convolution that is left out at random, though seldom."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and torch.rand(()) < 0.001 else super().forward(x)


class Remembering(nn.Conv2d):
    """A convolution that counts how often it trained."""

    def __init__(self, *sizes: int, **more: int) -> None:
        super().__init__(*sizes, **more)
        self.register_buffer("times", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.times += float(self.training)
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Reading, "what the frozen part gives depends on weights outside of it"),
        (Drawing, "what the frozen part gives for an example is not always the same"),
        (Remembering, "what the frozen part gives for an example is not always the same"),
    ],
)
def test_a_stage_whose_parts_hang_together_is_not_cut(kind: type[nn.Conv2d], said: str) -> None:
    network = Toy(classes=CLASSES)
    network.third = nn.Sequential(kind(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    network.third[0].other = [network.third[1]]
    strategy = training(r"re:third\.1\..*", "head")
    assert found(network, strategy) == [("third.0",)]
    with pytest.raises(NotExact, match=said):
        cut_within(network, strategy)
    assert cut_within(network, strategy, ()).modules == ("conv", "norm", "first", "second")


def test_a_stage_that_somebody_listens_to_is_not_cut() -> None:
    network = models.resnet18(num_classes=CLASSES)
    network.layer4.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(NotExact, match="something looks at what 'layer4' is given while training"):
        cut_within(network, training(r"re:layer4\.1\..*"))


def prepared(*overrides: str) -> Prepared:
    run = prepare(compose("finetune", [*ASKED, *overrides]), "finetune")
    assert run.cuts is not None
    return run


def schedule(phases: str) -> tuple[str, str]:
    return ("freeze=schedule", f"freeze.phases={phases}")


def test_the_plan_says_which_parts_run_once() -> None:
    run = prepared(*schedule(LAST_BLOCK))
    (told,) = run.cuts.told(run.plan)
    said = "stem to body2 and layer3.0, layer3.1 of body3 run once for each example; what that gives is kept: "
    assert told.startswith(f"epochs 0-9: {said}")
    (line,) = [line for line in as_text(estimated(run)).splitlines() if line.startswith("  body3")]
    assert line.endswith("  in part once")


def test_a_name_stands_for_the_weights_and_statistics_of_every_part() -> None:
    run = prepared(*schedule(LAST_BLOCK))
    cut = run.cuts.of(run.plan, run.plan.phases[0])
    cuts = replace(run.cuts, known={})  # nothing is taken to be as it was
    tensors = run.network.state_dict()
    own = {name for name in tensors if not name.startswith(("layer3.2", "linear"))}

    def name() -> str:
        return cuts.names(run.plan, cut).of("val", 0)

    first = name()
    for changed, tensor in tensors.items():
        before = tensor.clone()
        tensor.add_(1)
        assert (name() != first) == (changed in own), changed
        tensor.copy_(before)


def test_a_cut_within_a_stage_is_made_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    def modules(phases: str) -> tuple[str, ...]:
        run = prepared(*schedule(phases))
        return run.cuts.of(run.plan, run.plan.phases[0]).modules

    stages = ("conv1", "bn1", "layer1", "layer2")
    assert modules(LAST_BLOCK) == (*stages, "layer3.0", "layer3.1")
    little = r"[{train:['re:layer3\.0\.conv2.*',head]}]"
    assert modules(little) == stages
    monkeypatch.setattr(cuts, "SHARE", 0.0)
    assert modules(little) == (*stages, "layer3.0.conv1", "layer3.0.bn1")


def test_the_first_stage_is_cut_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared("freeze=norm")
    assert list(run.cuts.told(run.plan)) == []
    assert run.cuts.terms(run.plan, run.plan.phases[0]) == ""
    monkeypatch.setattr(cuts, "WORTH", 0.0)
    monkeypatch.setattr(cuts, "SHARE", 0.0)
    (told,) = run.cuts.told(run.plan)
    assert told.startswith("epochs 0-9: conv1 of stem runs once for each example; ")
    assert run.cuts.terms(run.plan, run.plan.phases[0]) != ""


def test_the_end_is_below_all_that_has_trained() -> None:
    second = r"{train:['re:layer3\.1\..*',head],epoch:5}"
    run = prepared(*schedule(LAST_BLOCK.replace("]}]", f"]}},{second}]")))
    ends = [run.cuts.of(run.plan, phase).modules[-1] for phase in run.plan.phases]
    assert ends == ["layer3.1", "layer3.0"]
    assert run.cuts.of_the_end(run.plan).modules[-1] == "layer3.0"
