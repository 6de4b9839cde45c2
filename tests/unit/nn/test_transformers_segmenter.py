"""Segmentation networks of transformers, built tiny: against transformers itself, and cut into stages."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from selection import assert_selected, resized, under
from torch import Tensor

from frostline.batch import NO_LABEL, Batch
from frostline.errors import RequestError, WeightsError
from frostline.nn.backbone import ImageInput
from frostline.nn.stages import stages
from frostline.nn.transformers_segmenter import TransformersSegmenter
from frostline.objectives.segmentation import Segmentation

transformers = pytest.importorskip("transformers")

SEGFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
SIDES = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def upernet():
    backbone = transformers.ResNetConfig(**SIDES, out_features=["stage1", "stage2", "stage3", "stage4"])
    return transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=16
    )


def mobilevit():
    return transformers.MobileViTConfig(
        hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8] * 7, aspp_out_channels=8, image_size=64
    )


KINDS = {
    "segformer": lambda: transformers.SegformerConfig(**SEGFORMER),
    "upernet": upernet,
    "mobilevit": mobilevit,
}
EACH = pytest.mark.parametrize("kind", KINDS)


def saved(folder: Path, kind: str, *, classes: int = 3):
    """A network of transformers, and its folder."""
    config = KINDS[kind]()
    config.num_labels = classes
    torch.manual_seed(1)
    network = transformers.AutoModelForSemanticSegmentation.from_config(config)
    network.save_pretrained(folder)
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))


def labels_of(images: Tensor, *, ignored: int) -> Tensor:
    labels = torch.randint(3, (len(images), *images.shape[-2:]), generator=torch.Generator().manual_seed(3))
    labels[:, :9] = ignored
    return labels


@pytest.mark.parametrize("kind", ["segformer", "upernet"])
def test_the_loss_is_that_of_transformers(tmp_path: Path, images: Tensor, kind: str) -> None:
    theirs = saved(tmp_path, kind).train()
    ours = TransformersSegmenter(name=str(tmp_path)).network(3).train()
    ignored = getattr(theirs.config, "semantic_loss_ignore_index", None) or theirs.config.loss_ignore_index
    torch.manual_seed(4)  # of dropout and of stochastic depth
    expected = theirs(pixel_values=images, labels=labels_of(images, ignored=ignored)).loss
    torch.manual_seed(4)
    objective = Segmentation(auxiliary_weight=0.4)
    batch = Batch(images, labels_of(images, ignored=NO_LABEL), torch.arange(2))
    torch.testing.assert_close(objective.loss(ours(images), batch), expected)


def test_auxiliary_logits_come_while_the_network_trains(tmp_path: Path, images: Tensor) -> None:
    saved(tmp_path, "upernet")
    network = TransformersSegmenter(name=str(tmp_path)).network(3)
    assert [logits.shape for logits in network.train()(images)] == [(2, 3, 64, 96)] * 2
    assert network.eval()(images).shape == (2, 3, 64, 96)
    assert not network.model.auxiliary_head._forward_hooks


def test_a_network_that_takes_blue_first_is_given_it(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "mobilevit").eval()
    recipe = TransformersSegmenter(name=str(tmp_path))
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    processor = transformers.MobileViTImageProcessor(do_resize=False, do_center_crop=False)
    shown = processor(Image.fromarray(image.permute(1, 2, 0).numpy()), return_tensors="pt")["pixel_values"]
    assert recipe.input.mean == (0.0, 0.0, 0.0)
    with torch.no_grad():
        logits = recipe.network(3).eval()(image[None] / 255)
        expected = torch.nn.functional.interpolate(theirs(pixel_values=shown).logits, (64, 64), mode="bilinear")
    torch.testing.assert_close(logits, expected)


@EACH
def test_stages_part_the_network_and_the_head_is_all_above_the_encoder(
    tmp_path: Path, kind: str, images: Tensor
) -> None:
    saved(tmp_path, kind)
    network = TransformersSegmenter(name=str(tmp_path)).network(3)
    parts = stages(network, images)
    owned = [parameter for part in parts for parameter in part.parameters.values()]
    assert len(owned) == len({id(p) for p in owned}) == len(list(network.parameters()))
    encoder, last = {
        "segformer": ("model.segformer.", "model.segformer.stages.3"),
        "upernet": ("model.backbone.", "model.backbone.encoder.stages.3"),
        "mobilevit": ("model.mobilevit.", "model.mobilevit.encoder.layer.4"),
    }[kind]
    head = {n for n, _ in network.named_parameters() if not n.startswith(encoder)}
    assert set(parts[-1].parameters) == head
    assert_selected(network, parts, head=head, last=under(network, [last]))
    assert resized(network, TransformersSegmenter(name=str(tmp_path)).network(5)) <= head
    assert len(parts) >= 5


def test_the_last_stage_below_the_head_is_the_last_of_the_encoder(images: Tensor) -> None:
    network = TransformersSegmenter(name="segformer", pretrained=False, config=SEGFORMER).network(3)
    parts = stages(network, images)
    for number, part in enumerate(parts[:-1]):
        assert all(name.startswith(f"model.segformer.stages.{number}.") for name in part.parameters)


@EACH
def test_other_classes_get_new_last_layers_and_the_rest_is_carried(tmp_path: Path, kind: str) -> None:
    theirs = saved(tmp_path, kind).state_dict()
    recipe = TransformersSegmenter(name=str(tmp_path))
    assert recipe.brings_head(3)
    assert not recipe.brings_head(5)
    ours = recipe.network(5).model.state_dict()
    changed = {n for n in theirs if theirs[n].shape != ours[n].shape or not torch.equal(theirs[n], ours[n])}
    assert changed
    assert all(".classifier." in name for name in changed)


def test_an_encoder_without_a_head_gets_a_new_one(tmp_path: Path) -> None:
    config = KINDS["segformer"]()
    torch.manual_seed(1)
    encoder = transformers.SegformerForImageClassification(config)
    encoder.save_pretrained(tmp_path)
    recipe = TransformersSegmenter(name=str(tmp_path))
    assert not recipe.brings_head(2)
    ours, theirs = recipe.network(2).model.segformer.state_dict(), encoder.segformer.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_images_are_those_of_the_image_processor(tmp_path: Path) -> None:
    saved(tmp_path, "segformer")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert TransformersSegmenter(name=str(tmp_path)).input == ImageInput(size=512, mean=mean, std=std)
    transformers.SegformerImageProcessor(size={"height": 96, "width": 128}, image_std=[1, 1, 1]).save_pretrained(
        tmp_path
    )
    assert TransformersSegmenter(name=str(tmp_path)).input == ImageInput(size=96, mean=mean, std=(1, 1, 1))
    assert TransformersSegmenter(name=str(tmp_path), size=64).input.size == 64


def refusal(error: type[Exception], **arguments: object) -> str:
    with pytest.raises(error) as caught:
        TransformersSegmenter(**arguments).network(3)
    return str(caught.value)


def test_what_is_wrong_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = refusal(WeightsError, name=str(tmp_path / "nothing"))
    assert "there is no such folder; name one that holds config.json" in told
    assert "model.safetensors and the tokenizer's files or preprocessor_config.json, or an id of" in told
    told = refusal(RequestError, name="bert", pretrained=False)
    assert told == "model.name=bert: transformers has no bert for segmentation; choose another"
    told = refusal(RequestError, name="segformer", pretrained=False, config={"depth": [1]})
    assert told == "model.config.depth: the configuration of segformer has no such entry"
    saved(tmp_path, "segformer")
    file = tmp_path / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(file).items() if ".block.1." not in name}
    save_file(weights, file, {"format": "pt"})
    assert "its weights have no value for 'segformer.stages.1." in refusal(WeightsError, name=str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    told = refusal(RequestError, name="segformer", pretrained=False)
    assert told == "model: needs transformers, which is not here; pip install 'frostline[text]'"
