from collections import Counter

import pytest
import torch
from selection import assert_selected, resized, under
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from frostline.depth import Role
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.stages import Stage, is_norm, stages

IMAGE = torch.zeros(2, 3, 224, 224, device="meta")
LARGE = torch.zeros(2, 3, 299, 299, device="meta")
NAMES = models.list_models(module=models)


class Weightless(TorchFunctionMode):
    """Give parameters no memory: a network of any size is built at once, to look at its shape."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def weightless(name: str, **arguments: int) -> nn.Module:
    with Weightless():
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return models.get_model(name, **arguments, **extra)


def torchvision_stages(name: str) -> tuple[nn.Module, tuple[Stage, ...]]:
    network = weightless(name)
    return network, stages(network, LARGE if name == "inception_v3" else IMAGE)


def tops(stage: Stage) -> list[str]:
    """The outermost modules of a stage."""
    return [name for name in stage.modules if name.rpartition(".")[0] not in stage.modules]


def names(cut: tuple[Stage, ...]) -> list[str]:
    return [stage.depth.name for stage in cut]


def assert_lawful(network: nn.Module, cut: tuple[Stage, ...]) -> None:
    """Count by identity, independently of how the stages were made."""
    owned = Counter(id(p) for stage in cut for p in stage.parameters.values())
    assert owned == Counter(id(p) for p in network.parameters())
    kept = Counter(id(b) for stage in cut for b in stage.buffers.values())
    assert kept == Counter(id(b) for b in network.buffers())
    assert max(Counter(id(m) for stage in cut for m in stage.modules.values()).values()) == 1
    assert {n: id(p) for s in cut for n, p in s.parameters.items()} == {n: id(p) for n, p in network.named_parameters()}
    assert all(stage.roles.keys() == stage.parameters.keys() for stage in cut)
    assert [(s.depth.index, s.depth.count) for s in cut] == [(i, len(cut)) for i in range(len(cut))]
    assert names(cut) == ["stem", *(f"body{i}" for i in range(1, len(cut) - 1)), "head"]


RESNET = [
    ["conv1", "bn1", "relu", "maxpool"],
    ["layer1"],
    ["layer2"],
    ["layer3"],
    ["layer4", "avgpool"],
    ["fc"],
]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet152"])
def test_resnets_have_a_stage_a_resolution(name):
    network, cut = torchvision_stages(name)
    assert_lawful(network, cut)
    assert [tops(stage) for stage in cut] == RESNET


def test_cifar_resnets_have_a_stage_a_group():
    network = CifarResNet(depth=20).network(10)
    cut = stages(network, torch.zeros(2, 3, 32, 32))
    assert_lawful(network, cut)
    assert [tops(stage) for stage in cut] == [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["linear"]]


def test_vision_transformers_have_a_stage_a_block():
    network, cut = torchvision_stages("vit_b_16")
    assert_lawful(network, cut)
    assert len(cut) == 14
    assert set(cut[0].parameters) == {
        "class_token", "encoder.pos_embedding", "conv_proj.weight", "conv_proj.bias"
    }  # fmt: skip
    for index in range(1, 13):
        assert f"encoder.layers.encoder_layer_{index - 1}" in tops(cut[index])
    assert "encoder.ln" in tops(cut[12])
    assert set(cut[13].parameters) == {"heads.head.weight", "heads.head.bias"}


# Stages, the outermost modules with parameters of the first and the last body stage, and the head's modules.
FAMILIES = {
    "alexnet": (8, ["features.3"], ["classifier.4"], ["classifier.6"]),
    "convnext_tiny": (9, ["features.1"], ["features.7", "classifier.0"], ["classifier.2"]),
    "densenet121": (9, ["features.denseblock1"], ["features.denseblock4", "features.norm5"], ["classifier"]),
    "efficientnet_b0": (10, ["features.1"], ["features.8"], ["classifier.0", "classifier.1"]),
    "googlenet": (13, ["conv2"], ["inception5b"], ["dropout", "fc", "aux1", "aux2"]),
    "inception_v3": (17, ["Conv2d_2a_3x3"], ["Mixed_7c"], ["dropout", "fc", "AuxLogits"]),
    "maxvit_t": (7, ["blocks.0"], ["classifier.3"], ["classifier.5"]),
    "mnasnet0_5": (11, ["layers.3", "layers.4"], ["layers.14", "layers.15"], ["classifier.0", "classifier.1"]),
    "mobilenet_v2": (20, ["features.1"], ["features.18"], ["classifier.0", "classifier.1"]),
    "mobilenet_v3_small": (15, ["features.1"], ["classifier.0"], ["classifier.2", "classifier.3"]),
    "regnet_y_400mf": (6, ["trunk_output.block1"], ["trunk_output.block4"], ["fc"]),
    "shufflenet_v2_x0_5": (6, ["stage2"], ["conv5"], ["fc"]),
    "squeezenet1_0": (10, ["features.3"], ["features.12"], [f"classifier.{i}" for i in range(4)]),
    "swin_t": (9, ["features.1"], ["features.7", "norm"], ["head"]),
    "vgg11": (11, ["features.3"], ["classifier.3"], ["classifier.5", "classifier.6"]),
    "vgg16_bn": (16, ["features.3", "features.4"], ["classifier.3"], ["classifier.5", "classifier.6"]),
}


# By how a name begins: the classifier that fine-tuning replaces, auxiliary ones too, and what an expert would train
# besides where he wants one stage more: the last blocks of one resolution with the norm behind them, the last block
# where resolutions are not told apart, or the layer that lies between the last block and the classifier, a projection
# or a hidden layer, as torchvision's own `trainable_layers=1` has it (detection/backbone_utils.py).
EXPERT = {
    "alexnet": (["classifier.6"], ["classifier.4"]),
    "convnext": (["classifier.2"], ["features.7", "classifier.0"]),
    "densenet": (["classifier"], ["features.denseblock4", "features.norm5"]),
    "efficientnet": (["classifier.1"], ["features.8"]),
    "efficientnet_v2_s": (["classifier.1"], ["features.7"]),
    "googlenet": (["fc", "aux1", "aux2"], ["inception5b"]),
    "inception_v3": (["fc", "AuxLogits"], ["Mixed_7c"]),
    "maxvit": (["classifier.5"], ["classifier.3"]),
    "mnasnet": (["classifier.1"], ["layers.14", "layers.15"]),
    "mobilenet_v2": (["classifier.1"], ["features.18"]),
    "mobilenet_v3": (["classifier.3"], ["classifier.0"]),
    "regnet": (["fc"], ["trunk_output.block4"]),
    "resnet": (["fc"], ["layer4"]),
    "resnext": (["fc"], ["layer4"]),
    "shufflenet": (["fc"], ["conv5"]),
    "squeezenet": (["classifier.1"], ["features.12"]),
    "swin": (["head"], ["features.7", "norm"]),
    "vgg": (["classifier.6"], ["classifier.3"]),
    "vit_b": (["heads.head"], ["encoder.layers.encoder_layer_11", "encoder.ln"]),
    "vit_h": (["heads.head"], ["encoder.layers.encoder_layer_31", "encoder.ln"]),
    "vit_l": (["heads.head"], ["encoder.layers.encoder_layer_23", "encoder.ln"]),
    "wide_resnet": (["fc"], ["layer4"]),
}

# What of an auxiliary classifier does not depend on the number of classes and yet is new with it.
AUXILIARY = ("aux1.conv.", "aux1.fc1.", "aux2.conv.", "aux2.fc1.", "AuxLogits.conv0.", "AuxLogits.conv1.")


def assert_expertly_selected(name: str, network: nn.Module, cut: tuple[Stage, ...]) -> None:
    head, last = EXPERT[max((family for family in EXPERT if name.startswith(family)), key=len)]
    replaced = under(network, head)
    assert_selected(network, cut, head=replaced, last=under(network, last))
    auxiliary = {each for each in replaced if each.startswith(AUXILIARY)}
    assert replaced - auxiliary == resized(network, weightless(name, num_classes=7))


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_cut_where_an_expert_would(name):
    network, cut = torchvision_stages(name)
    assert_lawful(network, cut)
    first, last = ([m for m in tops(s) if any(True for _ in s.modules[m].parameters())] for s in (cut[1], cut[-2]))
    assert (len(cut), first, last, tops(cut[-1])) == FAMILIES[name]
    assert_expertly_selected(name, network, cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_classification_network_of_torchvision_obeys_the_law_and_trains_what_an_expert_would(name):
    network, cut = torchvision_stages(name)
    assert_lawful(network, cut)
    assert len(cut) >= 5
    matrices = [p for p in cut[-1].parameters.values() if p.ndim > 1 and p.shape[0] == 1000]
    assert len(matrices) == {"googlenet": 3, "inception_v3": 2}.get(name, 1)
    assert_expertly_selected(name, network, cut)


def test_the_walk_sees_many_networks():
    assert len(NAMES) >= 80


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


class Chain(nn.Module):
    """Calls its children in the order of `order`, whatever order they were registered in."""

    def __init__(self, order: str, **children: nn.Module) -> None:
        super().__init__()
        self.order = order.split()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, values):
        for name in self.order:
            values = getattr(self, name)(values)
        return values


def cut_chain(order: str, **children: nn.Module) -> list[list[str]]:
    network = Chain(order, **children)
    cut = stages(network, torch.zeros(2, 4))
    assert_lawful(network, cut)
    return [tops(stage) for stage in cut]


def test_order_is_that_of_the_forward_pass_not_of_registration():
    backwards = {name: linear() for name in ("head", "c", "b", "a")}
    assert cut_chain("a b c head", **backwards) == [["a"], ["b"], ["c"], ["head"]]


def test_a_module_used_twice_stays_where_it_is_used_first():
    given = cut_chain("a b c a d head", a=linear(), b=linear(), c=linear(), d=linear(), head=linear())
    assert given == [["a"], ["b"], ["c"], ["d"], ["head"]]


def test_a_head_that_is_also_used_early_is_still_the_head():
    given = cut_chain("a head b c head", head=linear(), a=linear(), b=linear(), c=linear())
    assert given == [["a"], ["b"], ["c"], ["head"]]


def test_tied_weights_belong_to_their_first_use_under_their_registered_name():
    parts = {name: linear() for name in ("head", "c", "b", "a")}
    parts["head"].weight = parts["a"].weight
    network = Chain("a b c head", **parts)
    cut = stages(network, torch.zeros(2, 4))
    assert_lawful(network, cut)
    assert set(cut[0].parameters) == {"head.weight", "a.bias"}
    assert set(cut[-1].parameters) == {"head.bias"}
    assert "head" in cut[-1].modules


def test_a_head_wholly_tied_owns_its_module_only():
    parts = {name: nn.Linear(4, 4, bias=False) for name in ("a", "b", "head")}
    parts["head"].weight = parts["a"].weight
    network = Chain("a b head", **parts)
    cut = stages(network, torch.zeros(2, 4))
    assert_lawful(network, cut)
    assert cut[-1].parameters == {}
    assert tops(cut[-1]) == ["head"]


def test_normalisation_joins_what_it_normalises():
    given = cut_chain("a n b m head", a=linear(), n=nn.LayerNorm(4), b=linear(), m=nn.BatchNorm1d(4), head=linear())
    assert given == [["a", "n"], ["b", "m"], ["head"]]


def test_normalisation_of_the_input_and_of_the_output_is_neither_stem_nor_head_alone():
    given = cut_chain("n a b head m", n=nn.BatchNorm1d(4), a=linear(), b=linear(), head=linear(), m=nn.LayerNorm(4))
    assert given == [["n", "a"], ["b"], ["head", "m"]]


def test_dropout_belongs_to_the_stage_whose_input_it_drops():
    given = cut_chain(
        "a r drop flat head", a=linear(), r=nn.ReLU(), drop=nn.Dropout(), flat=nn.Flatten(), head=linear()
    )
    assert given == [["a", "r"], ["drop", "flat", "head"]]


def test_uncalled_modules_join_the_sibling_before_them_and_auxiliary_ones_the_head():
    given = cut_chain("a b head", a=linear(), spare=linear(), aux_head=linear(), b=linear(), head=linear())
    assert given == [["a", "spare"], ["b"], ["head", "aux_head"]]


def test_only_auxiliary_children_of_the_network_itself_join_the_head():
    inner = Chain("a b", a=linear(), aux=linear(), b=linear())
    assert cut_chain("inner head", inner=inner, head=linear()) == [["inner.a", "inner.aux"], ["inner.b"], ["head"]]


def test_containers_are_expanded_until_there_are_five_stages():
    wide = nn.Sequential(linear(), linear(), nn.Sequential(linear(), linear(), linear()))
    given = cut_chain("narrow wide head", narrow=nn.Sequential(linear(), linear()), wide=wide, head=linear())
    assert given == [["narrow"], ["wide.0"], ["wide.1"], ["wide.2"], ["head"]]


def test_a_container_of_most_layers_is_expanded_although_there_are_five_stages():
    deep = nn.Sequential(*(nn.Sequential(linear(), linear(), linear(), linear()) for _ in range(4)))
    given = cut_chain("a deep b c head", a=linear(), deep=deep, b=linear(), c=linear(), head=linear())
    assert given == [["a"], *([f"deep.{index}"] for index in range(4)), ["b"], ["c"], ["head"]]


class Affine(nn.Module):
    """ResMLP's stand-in for a normalisation layer."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.zeros(1, 4))

    def forward(self, values):
        return self.alpha * values + self.beta


def test_what_only_scales_and_shifts_joins_what_it_scales():
    given = cut_chain("n a m b head", n=Affine(), a=linear(), m=Affine(), b=linear(), head=linear())
    assert given == [["n", "a", "m"], ["b"], ["head"]]


class Interleaved(nn.Module):
    """Twins' way: one list embeds at each resolution, another transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.embeds, self.blocks = (nn.ModuleList([linear() for _ in range(3)]) for _ in range(2))
        self.head = linear()

    def forward(self, values):
        for embed, block in zip(self.embeds, self.blocks, strict=True):
            values = block(embed(values))
        return self.head(values)


def test_lists_that_the_pass_goes_through_in_turns_are_cut_in_its_order():
    network = Interleaved()
    cut = stages(network, torch.zeros(2, 4))
    assert_lawful(network, cut)
    turns = [[f"{name}.{index}"] for index in range(3) for name in ("embeds", "blocks")]
    assert [tops(stage) for stage in cut] == [*turns, ["head"]]


def test_a_block_is_where_it_is_called_although_it_shares_a_part_with_one_before_it():
    shared = linear()
    early, late = Chain("shared a", shared=shared, a=linear()), Chain("shared b", shared=shared, b=linear())
    given = cut_chain("early c d late head", early=early, late=late, c=linear(), d=linear(), head=linear())
    assert given == [["early"], ["c"], ["d"], ["late"], ["head"]]


def test_a_layer_that_is_passed_several_times_stays_whole():
    layer = Chain("a b", a=linear(), b=linear())
    given = cut_chain("embed layer layer layer head", embed=linear(), layer=layer, head=linear())
    assert given == [["embed"], ["layer"], ["head"]]


def test_a_trunk_that_is_passed_several_times_is_cut_where_nothing_else_is():
    trunk = Chain("a b c", a=linear(), b=linear(), c=linear())
    given = cut_chain("trunk trunk head", trunk=trunk, head=linear())
    assert given == [["trunk.a"], ["trunk.b"], ["trunk.c"], ["head"]]


def test_what_is_called_after_a_named_head_is_part_of_it():
    network = Chain("a b head other", a=linear(), b=linear(), head=linear(), other=linear())
    network.head_modules = ("head",)
    cut = stages(network, torch.zeros(2, 4))
    assert_lawful(network, cut)
    assert [tops(stage) for stage in cut] == [["a"], ["b"], ["head", "other"]]


def test_a_single_layer_is_all_head():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    (only,) = stages(network, torch.zeros(2, 4))
    assert only.depth.name == "head"
    assert only.depth.from_head == 0
    assert set(only.parameters) == {"1.weight", "1.bias"}
    assert names(stages(nn.Linear(4, 2), torch.zeros(2, 4))) == ["head"]


class Tables(nn.Module):
    """Owns what designs own directly: a token, a fixed position table, a mask that is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.cls_token = nn.Parameter(torch.zeros(4))
        self.positions = nn.Parameter(torch.randn(5, 4), requires_grad=False)
        self.register_buffer("mask", torch.ones(5, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = linear()

    def forward(self, words):
        values = self.words(words) + (self.positions + self.cls_token) * self.mask
        values, _ = self.attention(values, values, values)
        return self.head(self.norm(values).mean(1))


def test_tables_of_the_root_are_in_the_stem_and_keep_their_flags():
    network = Tables()
    cut = stages(network, torch.zeros(2, 5, dtype=torch.int64))
    assert_lawful(network, cut)
    assert set(cut[0].parameters) == {"words.weight", "cls_token", "positions"}
    assert set(cut[0].buffers) == {"mask"}
    assert not network.positions.requires_grad
    assert network.cls_token.requires_grad


def test_roles_say_what_a_parameter_does():
    cut = stages(Tables(), torch.zeros(2, 5, dtype=torch.int64))
    assert {name: role for stage in cut for name, role in stage.roles.items()} == {
        "words.weight": Role.EMBEDDING,
        "cls_token": Role.EMBEDDING,
        "positions": Role.EMBEDDING,
        "attention.in_proj_weight": Role.WEIGHT,
        "attention.in_proj_bias": Role.BIAS,
        "attention.out_proj.weight": Role.WEIGHT,
        "attention.out_proj.bias": Role.BIAS,
        "norm.weight": Role.NORM,
        "norm.bias": Role.NORM_BIAS,
        "head.weight": Role.WEIGHT,
        "head.bias": Role.BIAS,
    }


def test_shifts_by_other_names_are_biases():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.affine, self.head = nn.LSTM(4, 4, bidirectional=True), Affine(), nn.Linear(8, 2)

        def forward(self, values):
            return self.head(self.rnn(self.affine(values))[0])

    cut = stages(Recurrent(), torch.zeros(2, 3, 4))
    biases = {name for stage in cut for name, role in stage.roles.items() if role is Role.BIAS}
    recurrent = {f"rnn.bias_{gate}_l0{way}" for gate in ("ih", "hh") for way in ("", "_reverse")}
    assert biases == {*recurrent, "affine.beta", "head.bias"}


class CustomBatchNorm(nn.BatchNorm2d):
    pass


class VendorRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class NormedProjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm3d(4), nn.SyncBatchNorm(4), CustomBatchNorm(4),
        nn.InstanceNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.LocalResponseNorm(2),
        FrozenBatchNorm2d(4), VendorRMSNorm(),
    ],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_layers_that_normalise_are_norms(norm):
    assert is_norm(norm)


@pytest.mark.parametrize(
    "module",
    [nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4)), NormedProjection(), nn.Dropout(), nn.Embedding(4, 4)],
    ids=lambda module: type(module).__name__,
)
def test_containers_of_norms_and_projections_are_not_norms(module):
    assert not is_norm(module)


class Stateful(nn.Module):
    """Counts its forward passes and needs values, which the meta device has not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))
        self.norm = nn.BatchNorm1d(4)
        self.first, self.second = linear(), linear()

    def forward(self, values):
        self.passes += 1
        values = self.norm(values) + torch.rand(())
        return self.second(self.first(values) if values.sum().item() == values.sum().item() else values)


def test_watching_leaves_no_trace_even_where_it_takes_a_real_forward_pass():
    network = Stateful()
    network.norm.eval()
    before, modes = {k: v.clone() for k, v in network.state_dict().items()}, [m.training for m in network.modules()]
    example, random = torch.randn(3, 4), torch.get_rng_state()
    cut = stages(network, example)
    assert_lawful(network, cut)
    assert [tops(stage) for stage in cut] == [["norm", "first"], ["second"]]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert not any(m._forward_pre_hooks for m in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_detector_that_keeps_tensors_to_itself_is_left_as_it_was():
    network = models.get_model("fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None)
    cut = stages(network, torch.rand(1, 3, 64, 64))
    assert_lawful(network, cut)
    assert [anchors.device.type for anchors in network.rpn.anchor_generator.cell_anchors] == ["cpu"] * 3
    assert tops(cut[-1]) == ["roi_heads.box_predictor.bbox_pred"]


def test_an_error_of_the_network_itself_is_shown():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        stages(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4)), torch.zeros(2, 4))
