"""DETR's kin from transformers, built tiny and saved to a local folder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from selection import assert_selected, resized, under

from frostline.errors import RequestError, WeightsError
from frostline.nn.detection import DetectionInput
from frostline.nn.stages import stages
from frostline.nn.transformers_detector import TransformersDetector

transformers = pytest.importorskip("transformers")

SMALL = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 6,
}
SIDES = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def resnet(*maps: str):
    return transformers.ResNetConfig(**SIDES, out_features=list(maps))


def detr(kind: str, *, width: int = 16, maps: tuple[str, ...] = ("stage4",)):
    none = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    return getattr(transformers, kind)(d_model=width, backbone_config=resnet(*maps), **none, **SMALL)


def rt_detr():
    maps = ["stage2", "stage3", "stage4"]
    return transformers.RTDetrConfig(
        backbone_config=transformers.RTDetrResNetConfig(**SIDES, out_features=maps),
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        decoder_layers=2,
        num_queries=6,
        num_denoising=4,
    )


def yolos():
    return transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        num_detection_tokens=6,
    )


KINDS = {
    "detr": lambda: detr("DetrConfig"),
    "conditional_detr": lambda: detr("ConditionalDetrConfig"),
    "deformable_detr": lambda: detr("DeformableDetrConfig", width=32, maps=("stage2", "stage3", "stage4")),
    "rt_detr": rt_detr,
    "yolos": yolos,
}
EACH = pytest.mark.parametrize("kind", KINDS)


def saved(folder: Path, kind: str, *, classes: int = 3):
    """A network of transformers, and its folder."""
    config = KINDS[kind]()
    config.num_labels = classes
    torch.manual_seed(1)
    network = transformers.AutoModelForObjectDetection.from_config(config)
    network.save_pretrained(folder)
    return network


def inputs(*sizes: tuple[int, int]) -> dict:
    torch.manual_seed(5)
    images = [torch.rand(3, *size) for size in sizes or ((64, 64), (64, 64))]
    some = {"boxes": torch.tensor([[4.0, 4, 30, 36], [20, 30, 50, 60]]), "labels": torch.tensor([0, 2])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return {"images": images, "targets": [some, none]}


@EACH
def test_the_loss_is_its_own_and_its_weights_are_those_of_the_folder(tmp_path, kind) -> None:
    theirs = saved(tmp_path, kind).eval()
    recipe = TransformersDetector(name=str(tmp_path))
    assert recipe.brings_head(3)
    assert not recipe.brings_head(4)
    ours, given = recipe.network(3).eval(), inputs()
    found = ours(given)
    processor = recipe._processor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    images = torch.stack(given["images"])
    pixels = (images - mean) / std if processor.do_normalize else images
    boxes = torch.tensor([[17, 20, 26, 32], [35, 45, 30, 30]]) / 64
    labels = [
        {"class_labels": torch.tensor([0, 2]), "boxes": boxes},
        {"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)},
    ]
    own = theirs(pixel_values=pixels, labels=labels)
    torch.testing.assert_close(found.losses["loss"], own.loss)
    best = processor.post_process_object_detection(own, threshold=0.0, target_sizes=[(64, 64)] * 2)[0]["scores"].max()
    assert found.detections[0]["scores"][0] == best
    for each in found.detections:
        assert len(each["boxes"]) in (6, 18)  # one for each query, or for each query and class
        assert set(each["labels"].tolist()) <= {0, 1, 2}
    assert ours.train()(given).detections == []


@EACH
def test_other_classes_get_new_predictors_and_the_rest_is_carried(tmp_path, kind) -> None:
    theirs = saved(tmp_path, kind).state_dict()
    ours = TransformersDetector(name=str(tmp_path)).network(5).model.state_dict()
    changed = {n for n in theirs if theirs[n].shape != ours[n].shape or not torch.equal(theirs[n], ours[n])}
    assert changed
    assert all(
        {"class_labels_classifier", "class_embed", "enc_score_head", "denoising_class_embed"} & set(n.split("."))
        for n in changed
    )


LAST = {
    "detr": ["model.model.decoder"],
    "conditional_detr": ["model.model.decoder"],
    "deformable_detr": ["model.model.decoder"],
    "rt_detr": ["model.model.decoder.layers"],
    "yolos": ["model.vit.encoder.layer.1", "model.vit.layernorm"],
}
"""What an expert would train besides the predictors: the decoder, or an encoder's last layer where there is none."""


@EACH
def test_stages_part_the_network_and_the_head_is_what_predicts(tmp_path, kind) -> None:
    saved(tmp_path, kind)
    network = TransformersDetector(name=str(tmp_path)).network(3)
    parts = stages(network, inputs())
    owned = [p for part in parts for p in part.parameters.values()]
    assert {id(p) for p in owned} == {id(p) for p in network.parameters()}
    assert len(owned) == len({id(p) for p in owned})
    words = "class_labels_classifier bbox_predictor class_embed bbox_embed enc_score_head enc_bbox_head"
    predictors = [*words.split(), "denoising_class_embed"]
    head = {n for n, _ in network.named_parameters() if any(f".{each}." in n for each in predictors)}
    assert set(parts[-1].parameters) == head
    assert len(parts) >= 4
    assert any(word in name for name in parts[0].parameters for word in ("backbone", "embeddings"))
    assert_selected(network, parts, head=head, last=under(network, LAST[kind]))
    assert resized(network, TransformersDetector(name=str(tmp_path)).network(5)) <= head


def test_padding_changes_no_detection_where_the_network_is_told_of_it(tmp_path) -> None:
    saved(tmp_path, "detr")
    network = TransformersDetector(name=str(tmp_path)).network(3).eval()
    given = inputs((64, 64), (64, 32))
    alone = {"images": given["images"][1:], "targets": given["targets"][1:]}
    together, single = network(given).detections[1], network(alone).detections[0]
    torch.testing.assert_close(together["boxes"], single["boxes"], rtol=0.05, atol=0.5)


def test_kinds_are_built_new_and_sizes_are_those_of_their_processors() -> None:
    recipe = TransformersDetector(
        name="yolos", pretrained=False, config={"num_hidden_layers": 1, "image_size": [64, 64]}
    )
    assert recipe.input == DetectionInput(size=800, longest=1333)
    assert not recipe.brings_head(91)
    rt = TransformersDetector(name="rt_detr", pretrained=False, size=320)
    assert rt.input == DetectionInput(size=320, longest=320, square=True)


def refusal(error, **arguments) -> str:
    with pytest.raises(error) as caught:
        TransformersDetector(**arguments).network(3)
    return str(caught.value)


def test_what_is_wrong_is_told_in_a_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = refusal(WeightsError, name=str(tmp_path / "nothing"))
    assert "there is no such folder; name one that holds config.json" in told
    assert "preprocessor_config.json" in told
    assert "transformers has no 'bert' for detection" in refusal(RequestError, name="bert", pretrained=False)
    told = refusal(RequestError, name="yolos", pretrained=False, config={"num_querys": 3})
    assert told == "model.config.num_querys: the configuration of yolos has no such entry"


def test_weights_that_lack_more_than_predictors_are_refused(tmp_path) -> None:
    saved(tmp_path, "yolos")
    file = tmp_path / "model.safetensors"
    weights = {n: t for n, t in load_file(file).items() if "encoder.layer.0" not in n and "layers.0" not in n}
    save_file(weights, file, metadata={"format": "pt"})
    assert "its weights have no value for 'vit." in refusal(WeightsError, name=str(tmp_path))


def test_a_missing_library_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    told = refusal(RequestError, name="detr", pretrained=False)
    assert told == "model: needs transformers, which is not here; pip install 'frostline[text]'"
