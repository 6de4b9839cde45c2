"""Networks of timm: their weights, their inputs, their heads."""

import re
import sys
from collections import Counter

import pytest
import timm
import torch
from safetensors.torch import save_file
from selection import assert_selected, resized, trained, under
from timm.models._manipulate import group_parameters
from torch import nn

from frostline.errors import RequestError, WeightsError
from frostline.freeze.last_k import LastK
from frostline.nn.backbone import Backbone, ImageInput
from frostline.nn.stages import stages
from frostline.nn.timm import Timm

SMALL = "test_resnet"
"""A network of half a million parameters that timm keeps for tests."""


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A world without a network and without a cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))


def made(**arguments) -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model(SMALL, **arguments)


def differences(left: nn.Module, right: nn.Module) -> set[str]:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    return {n for n in ours if ours[n].shape != theirs[n].shape or not torch.equal(ours[n], theirs[n])}


def test_a_file_is_carried_all_but_a_classifier_of_another_size(tmp_path):
    published = made()
    save_file(published.state_dict(), path := tmp_path / "model.safetensors")
    network = Timm(name=SMALL, weights=str(path)).network(7)
    assert differences(network, published) == {"fc.weight", "fc.bias"}
    assert network.eval()(torch.randn(2, 3, 160, 160)).shape == (2, 7)
    assert differences(Timm(name=SMALL, weights=str(path)).network(1000), published) == set()
    save_file({f"module.{name}": weight for name, weight in published.state_dict().items()}, path)
    assert differences(Timm(name=SMALL, weights=str(path)).network(1000), published) == set()


def test_published_weights_are_those_that_timm_loads(monkeypatch):
    published = made()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: published.state_dict())
    assert differences(Timm(name=SMALL).network(7), published) == {"fc.weight", "fc.bias"}
    assert differences(Timm(name=SMALL, weights="r160_in1k").network(1000), published) == set()


def test_null_weights_are_timms_own_initialisation():
    torch.manual_seed(1)
    given = Timm(name=SMALL, weights=None).network(7)
    assert differences(given, made(num_classes=7)) == set()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_transformers_take_images_of_other_sizes_and_are_the_same_at_their_own(name):
    torch.manual_seed(1)
    network = Timm(name=name, weights=None).network(7).eval()
    torch.manual_seed(1)
    theirs = timm.create_model(name, num_classes=7).eval()
    assert differences(network, theirs) == set()
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(network(images), theirs(images))
    assert network(torch.randn(1, 3, 64, 96)).shape == (1, 7)
    at_64 = timm.create_model(name, num_classes=7, img_size=64) if name.startswith("vit") else None
    if at_64 is not None:  # as timm resamples positions where it builds the network for this size
        at_64.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(theirs.state_dict(), at_64))
        torch.testing.assert_close(at_64.eval()(small := torch.randn(1, 3, 64, 64)), network(small))


def test_a_network_of_one_size_says_which_where_its_stages_are_sought():
    network = Timm(name="mixer_s32_224", weights=None).network(2)
    with pytest.raises(RuntimeError, match=r"^Input height \(64\) doesn't match model \(224\)"):
        stages(network, torch.zeros(2, 3, 64, 64))


@pytest.mark.parametrize("name", [SMALL, "vit_tiny_patch16_224", "inception_v3", "levit_128s"])
def test_inputs_are_what_timm_resolves_for_the_model(name):
    told = timm.data.resolve_model_data_config(timm.create_model(name))
    expected = ImageInput(size=told["input_size"][1], mean=told["mean"], std=told["std"])
    assert Timm(name=name, weights=None).input == expected


def test_inputs_are_those_of_the_chosen_weights():
    half = (0.5, 0.5, 0.5)
    assert Timm(name="resnet50", weights="bt_in1k").input.size == 224
    assert Timm(name="vit_base_patch16_224", weights="augreg_in21k").input == ImageInput(size=224, mean=half, std=half)
    assert Timm(name="vit_base_patch16_224", weights="mae").input.mean == (0.485, 0.456, 0.406)


def test_weights_of_as_many_classes_bring_their_head():
    assert Timm(name="resnet18").brings_head(1000)
    assert not Timm(name="resnet18").brings_head(10)
    assert not Timm(name="resnet18", weights=None).brings_head(1000)
    assert Timm(name="vit_base_patch16_224", weights="augreg_in21k").brings_head(21843)


def test_a_file_brings_the_head_of_as_many_classes_as_it_has(tmp_path):
    save_file(made(num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    recipe = Timm(name=SMALL, weights=str(tmp_path / "seven.safetensors"))
    assert recipe.brings_head(7)
    assert not recipe.brings_head(1000)


def test_the_recipe_is_a_backbone():
    assert isinstance(Timm(name="resnet18"), Backbone)


def message(error: type[RequestError], **arguments) -> str:
    with pytest.raises(RequestError) as caught:
        Timm(**arguments).network(2)
    assert type(caught.value) is error
    return str(caught.value)


def test_an_unknown_name_is_told_with_the_nearest():
    assert message(RequestError, name="resnt50") == (
        "model.name: 'resnt50' is no network of timm; did you mean 'resnet50'?"
    )
    assert message(RequestError, name="0000") == (
        "model.name: '0000' is no network of timm; timm.list_models() has their names"
    )


def test_a_name_with_its_tag_is_told_apart():
    assert message(RequestError, name="resnet50.a1_in1k") == (
        "model.name: 'resnet50.a1_in1k' is no network of timm; say model.name=resnet50 model.weights=a1_in1k"
    )


def test_unknown_weights_are_told_with_the_nearest():
    assert message(RequestError, name="resnet50", weights="a1_in2k") == (
        "model.weights: 'a1_in2k' is neither a file nor weights that resnet50 comes with; did you mean 'a1_in1k'?"
    )


def test_a_network_without_published_weights_says_so():
    assert message(RequestError, name="vit_small_patch16_18x2_224") == (
        "model.weights: 'DEFAULT' is neither a file nor weights that vit_small_patch16_18x2_224 comes with; "
        "timm has none of it; name a file, or model.weights=null for new weights"
    )


def test_weights_out_of_reach_say_what_to_put_where(closed):
    said = message(WeightsError, name=SMALL)
    assert said.startswith(f"model.weights: those of {SMALL} could not be loaded (")
    assert said.endswith(
        f"); fetch model.safetensors of https://huggingface.co/timm/{SMALL}.r160_in1k into $HF_HOME where there is a "
        "network, or download it and pass model.weights=FILE, or model.weights=null for new weights."
    )
    assert "\n" not in said


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("conv1.0.weight"), "no value for 'conv1.0.weight'"),
        (lambda state: state.update({"b": torch.ones(1)}), "values that the network has no place for: 'b'"),
        (lambda state: state.update({"conv1.0.weight": torch.ones(3)}), "another shape of 'conv1.0.weight'"),
        (lambda state: state["conv1.0.weight"].fill_(float("nan")), "NaN or infinite values in 'conv1.0.weight'"),
    ],
    ids=["missing", "unexpected", "reshaped", "nan"],
)
def test_a_file_of_another_network_is_refused(tmp_path, change, problem):
    state = made().state_dict()
    change(state)
    torch.save(state, path := tmp_path / "altered.pth")
    said = message(WeightsError, name=SMALL, weights=str(path))
    assert said.startswith(f"model.weights: {path} has {problem}; choose the model.name")


@pytest.mark.slow
def test_a_file_under_its_authors_names_is_renamed_by_timm(tmp_path):
    name = "swin_tiny_patch4_window7_224"
    published = timm.create_model(name)
    old = {
        re.sub(r"layers\.(\d)\.downsample", lambda at: f"layers.{int(at[1]) - 1}.downsample", n).replace(".fc.", "."): w
        for n, w in published.state_dict().items()
    }
    torch.save({"model": old}, path := tmp_path / "swin.pth")
    network = Timm(name=name, weights=str(path)).network(3)
    assert differences(network, published) == {"head.fc.weight", "head.fc.bias"}


def test_a_missing_library_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RequestError, match=r"^model: needs timm, which is not here; pip install 'frostline\[timm\]'$"):
        Timm(name="resnet18")


def test_the_head_is_what_timm_calls_the_classifier():
    network = Timm(name="deit_tiny_distilled_patch16_224", weights=None).network(3)
    head = stages(network, torch.zeros(1, 3, 224, 224))[-1]
    assert set(head.parameters) == {f"{each}.{kind}" for each in ("head", "head_dist") for kind in ("weight", "bias")}


WALKED = [
    "beit_base_patch16_224", "botnet26t_256", "mobileone_s0", "cait_xxs24_224", "coat_tiny", "convit_tiny",
    "convmixer_768_32", "convnext_atto", "crossvit_tiny_240", "cs3darknet_focus_s", "davit_tiny",
    "deit_tiny_distilled_patch16_224", "densenet121", "dla34", "dpn68", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "efficientnet_b0", "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224",
    "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0",
    "hiera_tiny_224", "hrnet_w18_small", "inception_next_atto", "inception_resnet_v2", "inception_v4", "levit_128s",
    "mambaout_femto", "maxvit_pico_rw_256", "poolformer_s12", "resmlp_12_224", "mobilenetv3_small_050",
    "mobilevit_xxs", "mvitv2_tiny", "nextvit_small", "nf_regnet_b0", "pvt_v2_b0", "rdnet_tiny", "regnety_002",
    "repghostnet_050", "repvit_m1", "res2next50", "resnest14d", "resnet18", "resnetv2_18", "rexnet_100", "selecsls42",
    "legacy_seresnet18", "shvit_s1", "skresnet18", "starnet_s100", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "tiny_vit_5m_224", "tresnet_m", "twins_svt_small", "vgg11", "visformer_tiny",
    "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224", "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw",
    "xception41p", "xcit_nano_12_p8_224", "convnextv2_atto", "cspnext_tiny", "cspresnet50", "inception_v3",
    "lcnetv2_small", "legacy_xception", "nest_tiny", "pit_ti_224", "samvit_base_patch16", "sequencer2d_s",
    "tnt_s_patch16_224", "vit_relpos_small_patch16_224",
]  # fmt: skip
"""A small member of every family."""

WITHOUT_CLASSES = {
    "levit_128s": ["head.bn", "head_dist.bn"],
    "repvit_m1": ["head.head.bn", "head.head_dist.bn"],
}
"""What is part of a classifier, in one module with it, and the same for any number of classes."""

LAST = {
    # A layer between the last block and the classifier is a stage, as torchvision's own `trainable_layers=1` has it;
    # timm counts it to the last blocks, or to the head.
    "efficientnet_b0": ["conv_head", "bn2"],
    "efficientvit_b0": ["head.classifier.0", "head.classifier.1"],
    "fasternet_t0": ["conv_head"],
    "fastvit_t8": ["final_conv"],
    "ghostnet_050": ["conv_head"],
    "hardcorenas_b": ["conv_head"],
    "hgnetv2_b0": ["head.last_conv"],
    "hrnet_w18_small": ["final_layer"],
    "inception_next_atto": ["head.fc1", "head.norm"],
    "inception_resnet_v2": ["conv2d_7b"],
    "lcnetv2_small": ["conv_head"],
    "legacy_xception": ["conv4", "bn4"],
    "mambaout_femto": ["head.pre_logits"],
    "mobilenetv3_small_050": ["conv_head"],
    "mobilevit_xxs": ["final_conv"],
    "nf_regnet_b0": ["final_conv"],
    "repghostnet_050": ["conv_head"],
    "samvit_base_patch16": ["neck"],
    "vgg11": ["pre_logits"],
    # The last blocks are a stage together, of which timm makes one each.
    "cait_xxs24_224": ["blocks_token_only", "norm"],
    "coat_tiny": ["parallel_blocks", "norm2", "norm3", "norm4", "aggregate"],
    "visformer_tiny": ["stage3", "norm"],
    "volo_d1_224": ["post_network", "norm"],
    "xcit_nano_12_p8_224": ["cls_attn_blocks", "norm"],
    # Each block is a stage, where timm puts those of one resolution together.
    "dpn68": ["features.conv5_3", "features.conv5_bn_ac"],
    "twins_svt_small": ["blocks.3.3", "norm"],
    # timm has no coarse groups of these.
    "pit_ti_224": ["transformers.2", "norm"],
    "poolformer_s12": ["stages.3", "head.norm"],
    "rdnet_tiny": ["dense_stages.6", "head.norm"],
}
"""What an expert would train besides the classifier where that is not the last of timm's own coarse groups."""

UNLIKE_TIMM = {
    "cait_xxs24_224": "timm has the blocks for the class token beside the last blocks for patches, which come before",
    "pit_ti_224": "timm has no groups of it",
    "poolformer_s12": "timm has no groups of it",
    "visformer_tiny": "its second and third position tables, which the network owns itself, are in the stem",
}


def test_the_walk_sees_many_families():
    assert len({timm.model_entrypoint(name).__module__ for name in WALKED}) >= 60


def built(name: str, classes: int) -> nn.Module:
    with torch.device("meta"):
        return Timm(name=name, weights=None).network(classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKED)
def test_every_family_of_timm_is_cut_where_an_expert_would_and_trains_what_he_would(name):
    network, size = built(name, 3), Timm(name=name, weights=None).input.size
    cut = stages(network, torch.zeros(2, 3, size, size, device="meta"))
    owned = Counter(id(p) for stage in cut for p in stage.parameters.values())
    assert owned == Counter(id(p) for p in network.parameters())
    assert len(cut) >= 5
    shares = [len({n.rpartition(".")[0] for n in stage.parameters}) for stage in cut]
    assert max(shares[1:]) <= 0.75 * sum(shares)
    head = under(network, [*told_by_its_configuration(network), *WITHOUT_CLASSES.get(name, [])])
    assert head - under(network, WITHOUT_CLASSES.get(name, [])) == resized(network, built(name, 4))
    last = under(network, LAST[name]) if name in LAST else groups(network, coarse=True)[1] - head
    assert_selected(network, cut, head=head, last=last)
    if name not in UNLIKE_TIMM:
        theirs = [each for coarse in (True, False) for each in groups(network, coarse=coarse)]
        assert any(trained(cut, LastK(k=k)) in theirs for k in range(1, len(cut)))


def told_by_its_configuration(network: nn.Module) -> list[str]:
    """The modules that timm replaces where it carries weights to another number of classes."""
    told = network.pretrained_cfg["classifier"]
    return [told] if isinstance(told, str) else list(told)


def groups(network: nn.Module, *, coarse: bool) -> list[set[str]]:
    """What timm trains where it trains the last group of layers, the last two, the last three and so on."""
    if coarse and type(network).__name__ == "RDNet":
        return []  # timm says so itself
    found = group_parameters(network, network.group_matcher(coarse=coarse))
    return [{name for each in sorted(found)[-count:] for name in found[each]} for count in range(1, len(found))]
