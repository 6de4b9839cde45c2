"""Networks of timm: their weights, their inputs, their heads."""

import re
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from frostline.errors import RequestError, WeightsError
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


def test_published_weights_are_those_that_timm_loads(monkeypatch):
    published = made()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: published.state_dict())
    assert differences(Timm(name=SMALL).network(7), published) == {"fc.weight", "fc.bias"}
    assert differences(Timm(name=SMALL, weights="r160_in1k").network(1000), published) == set()


def test_null_weights_are_timms_own_initialisation():
    torch.manual_seed(1)
    given = Timm(name=SMALL, weights=None).network(7)
    assert differences(given, made(num_classes=7)) == set()


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
