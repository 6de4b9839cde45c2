"""Heads that come with weights are kept for their own classes alone."""

import re

import pytest
import torch
from language import saved
from torchvision import models
from transformers import AutoModelForSequenceClassification

from frostline.errors import RequestError
from frostline.nn.class_names import imagenet, same_classes
from frostline.nn.keras import Keras
from frostline.nn.timm import Timm
from frostline.nn.torchvision import Torchvision
from frostline.nn.torchvision_detector import TorchvisionDetector
from frostline.nn.torchvision_segmenter import TorchvisionSegmenter
from frostline.nn.transformers import TextClassifier
from frostline.objectives.classification import Classification

MNLI = ["contradiction", "neutral", "entailment"]


def classifier(folder, names: list[str] | None = None) -> TextClassifier:
    named = {} if names is None else {"id2label": dict(enumerate(names))}
    more = named or {"num_labels": 3}
    saved("bert", folder, model=AutoModelForSequenceClassification, **more)
    return TextClassifier(name=str(folder))


def test_a_head_of_the_same_classes_in_another_order_is_refused(tmp_path):
    recipe = classifier(tmp_path, MNLI)
    sentence = (
        "model: class 1 of its head is neutral, and of the data entailment: the same classes in another order; "
        "bring the data's into the head's (contradiction, neutral, entailment), or choose weights that have no head of "
        "them"
    )
    with pytest.raises(RequestError, match=f"^{re.escape(sentence)}$"):
        Classification().brings_head(recipe, sorted(MNLI))


@pytest.mark.parametrize("classes", [MNLI, [name.upper() for name in MNLI], ["0", "1", "2"]])
def test_a_head_of_the_same_classes_is_kept(tmp_path, classes):
    assert Classification().brings_head(classifier(tmp_path, MNLI), classes)


def test_classes_that_case_alone_tells_apart_are_in_the_same_order_or_refused():
    assert same_classes(["A", "a"], ["A", "a"])
    with pytest.raises(RequestError, match=r"^model: class 0 of its head is A, and of the data a: the same classes in"):
        same_classes(["A", "a"], ["a", "A"])


def test_a_head_of_other_classes_is_another(tmp_path):
    assert not Classification().brings_head(classifier(tmp_path, MNLI), ["bad", "fair", "good"])
    assert not Classification().brings_head(classifier(tmp_path, MNLI), MNLI[:2])


def test_a_head_without_names_is_kept_for_as_many_classes(tmp_path):
    recipe = classifier(tmp_path)
    assert recipe.classes == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert Classification().brings_head(recipe, MNLI)
    with pytest.raises(RequestError, match=r"^model: class 0 of its head is LABEL_0, and of the data LABEL_2: "):
        Classification().brings_head(recipe, ["LABEL_2", "LABEL_0", "LABEL_1"])


def test_weights_without_names_are_for_any_classes():
    assert same_classes(None, ["cat", "dog"])
    assert same_classes(None, sorted(map(str, range(12))))  # folders 0, 1, 10, 11, 2, ...


def test_numbers_that_a_head_was_trained_for_are_names():
    assert same_classes(["0", "1"], ["0", "1"])
    assert not same_classes(["0", "1"], ["5", "6"])
    assert not same_classes(["5", "6"], ["0", "1"])


def test_imagenet_is_known_by_its_words_and_its_numbers():
    head = imagenet()
    synsets = [f"n{place:08}" for place in range(1000)]
    assert same_classes(head, imagenet())
    assert same_classes(head, synsets)
    assert not same_classes(head, synsets[::-1])
    with pytest.raises(RequestError, match=r"^model: class 0 of its head is tench, and of the data Afghan hound"):
        same_classes(head, sorted(imagenet()))


def test_published_weights_have_the_names_that_they_were_published_with():
    assert Torchvision(name="resnet18").classes == Timm(name="resnet10t").classes == imagenet()
    assert Keras(name="MobileNetV2").classes == imagenet()
    assert Torchvision(name="resnet18", weights=None).classes is None
    assert Timm(name="resnet10t", weights=None).classes is None
    assert TorchvisionSegmenter(name="fcn_resnet50").classes[:2] == ["__background__", "aeroplane"]
    coco = models.detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    assert TorchvisionDetector(name="fasterrcnn_resnet50_fpn").classes == coco[1:]
    assert TorchvisionDetector(name="retinanet_resnet50_fpn").classes == coco


def test_the_names_of_a_network_are_in_the_order_of_its_logits(tmp_path):
    recipe = classifier(tmp_path, MNLI)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert recipe.classes == [theirs.config.id2label[place] for place in range(3)]
    kept = recipe.network(3).state_dict()["model.classifier.weight"]
    assert torch.equal(kept, theirs.classifier.weight)
