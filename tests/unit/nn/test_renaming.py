"""Weights of one network inside another: which tree is which, decided by names and shapes together."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from frostline.checkpoint import carry
from frostline.errors import WeightsError
from frostline.nn.renaming import Renaming, renaming, spelt_anew
from frostline.nn.weights import read_weights

transformers = pytest.importorskip("transformers")


def state(network: nn.Module) -> dict[str, Tensor]:
    return network.state_dict()


def below(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def bert(kind: str) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    return getattr(transformers, kind)(config)


def detector(name: str) -> nn.Module:
    with torch.device("meta"):
        return models.get_model(name, weights=None, weights_backbone=None, num_classes=3)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    with torch.device("meta"):
        return models.resnet50(weights=None)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "teacher.backbone.", "module.encoder_q."])
def test_a_wrapper_is_taken_off(resnet: nn.Module, prefix: str) -> None:
    assert renaming(below(prefix, resnet), state(resnet)) == Renaming(theirs=prefix, ours="")


def test_a_classifier_lies_in_a_detector_and_in_a_segmenter_and_comes_back(resnet: nn.Module) -> None:
    body = below("model.", detector("fasterrcnn_resnet50_fpn"))
    assert renaming(state(resnet), body) == Renaming(theirs="", ours="model.backbone.body.")
    assert renaming(body, state(resnet)) == Renaming(theirs="model.backbone.body.", ours="")
    with torch.device("meta"):
        segmenter = models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=4)
    assert renaming(state(resnet), below("model.", segmenter)) == Renaming(theirs="", ours="model.backbone.")
    assert renaming(below("model.", segmenter), body).ours == "model.backbone.body."


def test_layers_that_are_only_numbered_are_found_by_their_shapes() -> None:
    with torch.device("meta"):
        mobilenet = models.mobilenet_v3_large(weights=None)
    own = below("model.", detector("fasterrcnn_mobilenet_v3_large_320_fpn"))
    assert renaming(state(mobilenet), own) == Renaming(theirs="features.", ours="model.backbone.body.")


def test_an_encoder_is_found_in_networks_for_other_tasks() -> None:
    masked, classifier = (
        below("model.", bert("BertForMaskedLM")),
        below("model.", bert("BertForSequenceClassification")),
    )
    assert renaming(masked, classifier) == Renaming(theirs="", ours="")
    assert renaming(state(bert("BertModel")), classifier) == Renaming(theirs="", ours="model.bert.")
    assert renaming(masked, state(bert("BertModel"))) == Renaming(theirs="model.bert.", ours="")


def test_what_is_carried_is_the_tensor_of_the_same_place() -> None:
    torch.manual_seed(0)
    theirs, ours = models.resnet18(weights=None), nn.ModuleDict({"trunk": models.resnet18(weights=None)})
    ours["trunk"].fc = nn.Identity()
    carried = carry(ours, state(theirs), head=(), min_coverage=1.0)
    assert carried.unexpected == ("trunk.fc.bias", "trunk.fc.weight")
    for name, tensor in ours["trunk"].state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_names_outside_the_renamed_tree_are_never_carried() -> None:
    theirs = {**below("trunk.", nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))), "head.weight": torch.ones(2, 4)}
    ours = nn.ModuleDict({"net": nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), "head": nn.Linear(4, 2, bias=False)})
    before = ours["head"].weight.clone()
    carried = carry(ours, theirs, head=["head.weight"], min_coverage=1.0)
    assert carried.renamed == Renaming(theirs="trunk.", ours="net.")
    assert torch.equal(ours["head"].weight, before)
    assert (carried.missing, carried.unexpected) == (("head.weight",), ("head.weight",))
    assert str(carried).splitlines()[0] == "  > trunk. -> net.  names in the weights, here"


def test_one_word_in_common_is_no_sign() -> None:
    theirs, ours = {"conv.weight": torch.ones(3, 3)}, {"fc.weight": torch.ones(3, 3)}
    assert renaming(theirs, ours) == Renaming(theirs="", ours="")


def test_the_old_names_of_layer_normalisation_are_understood() -> None:
    old = {"encoder.LayerNorm.gamma": torch.ones(2), "encoder.LayerNorm.beta": torch.zeros(2), "gamma": torch.ones(1)}
    today = {"encoder.LayerNorm.weight": torch.ones(2), "encoder.LayerNorm.bias": torch.zeros(2)}
    assert list(spelt_anew(old, today)) == ["encoder.LayerNorm.weight", "encoder.LayerNorm.bias", "gamma"]


def test_a_network_whose_own_parameters_have_the_old_names_keeps_them() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.gamma = nn.Linear(3, 3), nn.Parameter(torch.full((3,), 1e-6))

    theirs, ours = nn.Sequential(Scaled()), nn.Sequential(Scaled())
    theirs[0].gamma.data.fill_(0.7)
    assert carry(ours, state(theirs), head=(), min_coverage=1.0).missing == ()
    assert torch.equal(ours[0].gamma, theirs[0].gamma)


def test_two_networks_that_fit_equally_are_not_chosen_between_in_silence() -> None:
    query, key = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    both = below("module.encoder_q.", query) | below("module.encoder_k.", key)
    ours = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    sentence = (
        "The weights hold several networks that fit: module.encoder_k., module.encoder_q.; "
        "choose one with init_prefix=module.encoder_k."
    )
    with pytest.raises(WeightsError) as refusal:
        carry(ours, both, head=(), min_coverage=1.0)
    assert str(refusal.value) == sentence
    carry(ours, both, head=(), min_coverage=1.0, prefix="module.encoder_q.")
    assert torch.equal(ours[0].weight, query[0].weight)


def test_layers_that_any_two_networks_share_are_no_several_networks() -> None:
    theirs = nn.ModuleDict(
        {"features": nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 9), nn.Linear(4, 8), nn.Linear(9, 9))}
    )
    ours = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 16))
    weights = {name.replace(".0.", ".0.0.").replace(".2.", ".2.0."): tensor for name, tensor in state(theirs).items()}
    with pytest.raises(WeightsError, match="do not fit the network") as refused:
        carry(ours, weights, head=(), min_coverage=0.9)
    assert "init_prefix" not in str(refused.value)


def test_a_prefix_that_nothing_has_names_what_there_is() -> None:
    with pytest.raises(WeightsError, match=r"^init_prefix=teacher\.: no name begins so; names begin with 0$"):
        carry(nn.Sequential(nn.Linear(2, 2)), state(nn.Sequential(nn.Linear(2, 2))), head=(), min_coverage=0,
              prefix="teacher.")  # fmt: skip


def test_a_folder_of_transformers_is_read_whole_or_in_parts(tmp_path) -> None:
    network = bert("BertModel")
    network.save_pretrained(tmp_path / "whole")
    network.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    for folder in ("whole", "parts"):
        weights = read_weights(tmp_path / folder)
        assert weights.keys() == network.state_dict().keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_a_folder_without_weights_or_with_several_says_so(tmp_path) -> None:
    with pytest.raises(WeightsError, match="holds no file of weights"):
        read_weights(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(WeightsError, match=r"holds a\.safetensors, b\.safetensors; name one of these files\.$"):
        read_weights(tmp_path)
