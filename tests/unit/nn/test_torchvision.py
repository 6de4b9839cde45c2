import re
import warnings
from collections import OrderedDict
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from frostline.errors import RequestError, WeightsError
from frostline.nn.backbone import Backbone, ImageInput
from frostline.nn.stages import stages
from frostline.nn.torchvision import Torchvision
from frostline.nn.torchvision_weights import unwrapped

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder where torch.hub keeps downloads, in a world without a network."""

    def unreachable(url, dst, hash_prefix=None, progress=True):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


def file_name(name: str, weights: str = "DEFAULT") -> str:
    return models.get_model_weights(name)[weights].url.rpartition("/")[2]


def publish(name: str, folder: Path, **arguments) -> nn.Module:
    """Make a network with weights and put these where torch.hub would have put the published ones."""
    torch.manual_seed(1)
    network = models.get_model(name, weights=None, **arguments)
    torch.save(network.state_dict(), folder / file_name(name))
    return network


def differences(left: nn.Module, right: nn.Module) -> set[str]:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    return {
        name for name in ours if ours[name].shape != theirs[name].shape or not torch.equal(ours[name], theirs[name])
    }


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("squeezenet1_1", {"classifier.1.weight", "classifier.1.bias"}),
        ("mobilenet_v3_small", {"classifier.3.weight", "classifier.3.bias"}),
        ("shufflenet_v2_x0_5", {"fc.weight", "fc.bias"}),
        ("regnet_y_400mf", {"fc.weight", "fc.bias"}),
    ],
)
def test_published_weights_are_carried_all_but_a_classifier_of_another_size(hub, name, classifier):
    published = publish(name, hub)
    network = Torchvision(name=name).network(7)
    assert differences(network, published) == classifier
    assert network.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_a_classifier_of_the_same_size_is_carried(hub):
    published = publish("shufflenet_v2_x0_5", hub)
    assert differences(Torchvision(name="shufflenet_v2_x0_5").network(1000), published) == set()


def test_a_new_classifier_is_drawn_as_torchvision_draws_it(hub):
    publish("mobilenet_v3_small", hub)
    torch.manual_seed(5)
    carried = Torchvision(name="mobilenet_v3_small").network(7)
    torch.manual_seed(5)
    fresh = models.mobilenet_v3_small(num_classes=7)
    assert torch.equal(carried.classifier[3].weight, fresh.classifier[3].weight)
    assert carried.classifier[3].weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_null_weights_are_torchvisions_own_initialisation():
    torch.manual_seed(3)
    given = Torchvision(name="squeezenet1_1", weights=None).network(7)
    torch.manual_seed(3)
    assert differences(given, models.squeezenet1_1(num_classes=7)) == set()


INCEPTIONS = [
    pytest.param("googlenet", {"fc.weight", "aux1.fc2.weight", "aux2.fc2.weight"}),
    pytest.param("inception_v3", {"fc.weight", "AuxLogits.fc.weight"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "classifiers"), INCEPTIONS)
def test_inceptions_see_what_torchvisions_see_and_replace_auxiliary_classifiers(hub, name, classifiers):
    theirs = publish(name, hub, aux_logits=True, transform_input=True, init_weights=False)
    recipe = Torchvision(name=name)
    ours, pixels = recipe.network(3), torch.rand(2, 3, 96, 96)
    assert {n for n in differences(ours, theirs) if n.endswith("weight")} == classifiers
    expected = seen_by_the_first_layer(theirs, normalised(pixels, ImageInput(size=0, **IMAGENET)))
    torch.testing.assert_close(seen_by_the_first_layer(ours, normalised(pixels, recipe.input)), expected)


def seen_by_the_first_layer(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    seen = []
    next(m for m in network.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(
        lambda _, x: seen.append(*x)
    )
    with torch.no_grad():
        network.eval()(images)
    return seen[0]


def normalised(pixels, expects: ImageInput):
    return (pixels - torch.tensor(expects.mean).view(3, 1, 1)) / torch.tensor(expects.std).view(3, 1, 1)


def test_training_inceptions_return_logits_and_auxiliary_logits():
    outputs = Torchvision(name="googlenet", weights=None).network(3).train()(torch.randn(2, 3, 64, 64))
    assert isinstance(outputs, tuple)
    assert [logits.shape for logits in outputs] == [(2, 3)] * 3


def test_inputs_are_those_of_the_chosen_weights():
    assert Torchvision(name="resnet50").input == ImageInput(size=224, **IMAGENET)
    assert Torchvision(name="resnet50", weights=None).input == ImageInput(size=224, **IMAGENET)
    assert Torchvision(name="inception_v3").input == ImageInput(size=299, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert Torchvision(name="efficientnet_v2_l").input == ImageInput(size=480, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert Torchvision(name="vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1").input.size == 384


def test_every_recipe_is_a_backbone():
    assert isinstance(Torchvision(name="resnet18"), Backbone)


def test_densenets_of_the_time_of_dotted_names_are_read(tmp_path):
    torch.manual_seed(1)
    published = models.densenet121()
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", n) if "denselayer" in n else n: w
           for n, w in published.state_dict().items() if not n.endswith("num_batches_tracked")}  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, path := tmp_path / "densenet121-a639ec97.pth")
    recipe = Torchvision(name="densenet121", weights=str(path))
    assert recipe.brings_head(1000)
    assert differences(recipe.network(1000), published) == set()


@pytest.mark.parametrize("before", ["module.", "model.module."])
def test_what_a_wrapper_put_before_all_names_is_taken_off(tmp_path, before):
    published = models.mnasnet0_5()
    state = published.state_dict()
    wrapped = OrderedDict((f"{before}{name}", weight) for name, weight in state.items())
    wrapped._metadata = {f"{before}{name}".rstrip("."): versions for name, versions in state._metadata.items()}
    torch.save(wrapped, path := tmp_path / "mnasnet.pth")
    recipe = Torchvision(name="mnasnet0_5", weights=str(path))
    assert recipe.brings_head(1000)
    assert not recipe.brings_head(7)
    assert differences(recipe.network(1000), published) == set()
    kept = unwrapped(wrapped, published)
    assert (list(kept), dict(kept._metadata)) == (list(state), dict(state._metadata))
    one = next(iter(state))
    torch.save({**wrapped, one: state[one]}, path)
    with pytest.raises(WeightsError, match=r"has no value for 'layers.1.weight' and"):
        Torchvision(name="mnasnet0_5", weights=str(path)).network(1000)


def test_a_network_that_insists_on_its_version_takes_a_file_without_one(tmp_path):
    published = models.mnasnet0_5()
    save_file(published.state_dict(), path := tmp_path / "mnasnet.safetensors")
    assert differences(Torchvision(name="mnasnet0_5", weights=str(path)).network(1000), published) == set()


@pytest.mark.slow
def test_vision_transformers_of_the_time_of_other_names_are_read(tmp_path):
    published = models.vit_b_32()
    state = published.state_dict()
    for name in [name for name in state if re.search(r"mlp\.[03]\.", name)]:
        state[name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")] = state.pop(name)
    for module, versions in state._metadata.items():
        versions["version"] = 1 if module.endswith("mlp") else versions.get("version")
    torch.save(state, path := tmp_path / "vit_b_32.pth")
    recipe = Torchvision(name="vit_b_32", weights=str(path))
    assert recipe.brings_head(1000)
    assert differences(recipe.network(1000), published) == set()


@pytest.mark.slow
def test_vision_transformers_fit_the_images_of_their_weights():
    network = Torchvision(name="vit_b_16", weights=None).network(2)
    assert network.encoder.pos_embedding.shape == (1, 14 * 14 + 1, 768)


def message(error: type[RequestError], **arguments) -> str:
    with pytest.raises(RequestError) as caught:
        Torchvision(**arguments).network(2)
    assert type(caught.value) is error
    return str(caught.value)


def test_an_unknown_name_is_told_with_the_nearest():
    assert message(RequestError, name="resnet51") == (
        "model.name: 'resnet51' is no classification network of torchvision; did you mean 'resnet50'?"
    )
    assert message(RequestError, name="xyz").startswith(
        "model.name: 'xyz' is no classification network of torchvision; there are alexnet, convnext_base, "
    )


@pytest.mark.parametrize("name", ["quantized_resnet18", "fcn_resnet50", "fasterrcnn_resnet50_fpn", "r3d_18"])
def test_networks_for_other_problems_are_refused(name):
    assert "is no classification network of torchvision" in message(RequestError, name=name)


def test_unknown_weights_are_told_with_the_nearest():
    assert message(RequestError, name="resnet50", weights="IMAGENET1K_V3") == (
        "model.weights: 'IMAGENET1K_V3' is neither a file nor weights that resnet50 comes with; "
        "did you mean 'IMAGENET1K_V2'?"
    )
    assert message(RequestError, name="resnet50", weights="my.pth") == (
        "model.weights: 'my.pth' is neither a file nor weights that resnet50 comes with; "
        "there are DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"
    )


def test_a_failed_download_says_what_to_put_where(hub):
    assert message(WeightsError, name="squeezenet1_1") == (
        "model.weights: squeezenet1_1-b8a52dc0.pth could not be downloaded (<urlopen error no network>); "
        f"put https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth into {hub}, or pass model.weights=FILE, "
        "or model.weights=null for new weights."
    )


def test_a_download_is_kept_and_checked_against_its_hash(hub, monkeypatch):
    asked = []

    def download(url, dst, hash_prefix=None, progress=True):
        asked.append((url, hash_prefix))
        torch.save(models.squeezenet1_1().state_dict(), dst)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    Torchvision(name="squeezenet1_1").network(2)
    Torchvision(name="squeezenet1_1").network(2)
    assert asked == [("https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth", "b8a52dc0")]


def test_every_published_file_carries_its_hash():
    urls = [w.url for name in models.list_models(module=models) for w in models.get_model_weights(name)]
    assert len(urls) > 100
    assert all(re.search(r"-([0-9a-f]{8,})\.pth$", url) for url in urls)


ADVICE = (
    "choose the model.name that these weights belong to, or carry what fits with init_from=FILE and model.weights=null."
)


def altered(tmp_path, change) -> Path:
    state = models.squeezenet1_1().state_dict()
    change(state)
    torch.save(state, path := tmp_path / "altered.pth")
    return path


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("features.0.bias"), "no value for 'features.0.bias'"),
        (lambda state: state.update(b=torch.ones(1), c=torch.ones(1)),
         "values that the network has no place for: 'b' and 1 more"),
        (lambda state: state.update({"features.0.bias": torch.ones(3)}), "another shape of 'features.0.bias'"),
        (lambda state: state["features.0.bias"].fill_(float("nan")), "NaN or infinite values in 'features.0.bias'"),
    ],
    ids=["missing", "unexpected", "reshaped", "nan"],
)  # fmt: skip
def test_a_file_of_another_network_is_refused(tmp_path, change, problem):
    path = altered(tmp_path, change)
    assert message(WeightsError, name="squeezenet1_1", weights=str(path)) == (
        f"model.weights: {path} has {problem}; {ADVICE}"
    )


def test_a_file_without_a_classifier_leaves_it_new(tmp_path):
    path = altered(tmp_path, lambda state: [state.pop(f"classifier.1.{name}") for name in ("weight", "bias")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Torchvision(name="squeezenet1_1", weights=str(path)).network(1000).classifier[1].out_channels == 1000


def test_a_network_of_another_task_is_pointed_to_its_choice() -> None:
    with pytest.raises(RequestError, match=r"torchvision; choose model=torchvision_detector$"):
        Torchvision(name="fasterrcnn_resnet50_fpn")
    with pytest.raises(RequestError, match=r"torchvision; choose model=torchvision_segmenter$"):
        Torchvision(name="fcn_resnet50")


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "shufflenet_v2_x0_5", "vit_b_16"])
def test_weights_bring_the_head_of_as_many_classes_as_they_have(name, tmp_path):
    assert Torchvision(name=name).brings_head(1000)
    assert not Torchvision(name=name, weights=None).brings_head(1000)
    auxiliary = {"init_weights": True} if name == "googlenet" else {}
    torch.save(models.get_model(name, weights=None, num_classes=7, **auxiliary).state_dict(), tmp_path / "seven.pth")
    recipe = Torchvision(name=name, weights=str(tmp_path / "seven.pth"))
    assert recipe.brings_head(7)
    assert not recipe.brings_head(1000)


def test_a_transformer_of_one_size_says_which_where_its_stages_are_sought() -> None:
    network = Torchvision(name="vit_b_32", weights=None).network(2)
    with pytest.raises(RuntimeError, match=r"^Wrong image height! Expected 224 but got 64!$"):
        stages(network, torch.zeros(2, 3, 64, 64))
