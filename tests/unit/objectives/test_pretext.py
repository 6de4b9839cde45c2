"""Self-supervision: each problem against its definition, and what the networks that set it must leave alone."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from frostline.batch import Batch
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.stages import stages
from frostline.nn.torchvision import Torchvision
from frostline.objectives.knn import KnnAccuracy
from frostline.objectives.masked_pixels import MaskedPixels
from frostline.objectives.pretext import Pretext
from frostline.objectives.rotation import Rotation
from frostline.objectives.simclr import Simclr
from frostline.objectives.views import Views, _grey, _turned

OBJECTIVES = (Rotation, Simclr, MaskedPixels)
CLASSES = ("a", "b")


def batch_of(images: Tensor) -> Batch:
    count = len(images)
    return Batch(images, torch.arange(count) % 2, torch.arange(count))


@pytest.fixture
def batch() -> Batch:
    return batch_of(torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def test_rotation_is_the_cross_entropy_of_four_turned_copies(batch: Batch) -> None:
    network = Rotation().network(CifarResNet(), CLASSES).eval()
    outputs = network(batch.inputs)
    losses = []
    for image in batch.inputs:
        for turn in range(4):
            turned = torch.from_numpy(np.rot90(image.numpy(), turn, axes=(1, 2)).copy()).unsqueeze(0)
            logits = network.head(network.trunk(turned).pooled)[0]
            losses.append(-torch.log_softmax(logits, dim=0)[turn])
    torch.testing.assert_close(Rotation().loss(outputs, batch), torch.stack(losses).mean())


def test_rotation_counts_the_turns_that_are_told_right(batch: Batch) -> None:
    right = torch.eye(4).unsqueeze(1).repeat(1, 6, 1)
    right[3, 0] = torch.tensor([1.0, 0, 0, 0])
    outputs = {"logits": right, "features": torch.randn(6, 5)}
    assert Rotation().predictions(outputs, batch)["turns_right"].tolist() == [3, 4, 4, 4, 4, 4]
    metrics = Rotation().metrics(CLASSES)
    Rotation().measure(metrics, outputs, batch)
    assert metrics.compute()["rotation_accuracy"] == pytest.approx(23 / 24)


def test_simclr_is_equation_1_of_its_paper(batch: Batch) -> None:
    views = nn.functional.normalize(torch.randn(2, 6, 8), dim=2)
    z, tau = torch.cat([views[0], views[1]]), 0.3

    def pair(i: int, j: int) -> float:
        others = sum(math.exp(float(z[i] @ z[k]) / tau) for k in range(12) if k != i)
        return -math.log(math.exp(float(z[i] @ z[j]) / tau) / others)

    expected = sum(pair(k, k + 6) + pair(k + 6, k) for k in range(6)) / 12
    assert Simclr(temperature=tau).loss({"views": views}, batch).item() == pytest.approx(expected, rel=1e-5)


def test_simclr_counts_the_views_that_find_each_other(batch: Batch) -> None:
    views = torch.eye(6).repeat(2, 1, 1)
    views[1, 0] = views[1, 1]
    assert Simclr().predictions({"views": views}, batch)["views_right"].tolist()[2:] == [2, 2, 2, 2]
    assert Simclr().predictions({"views": views}, batch)["views_right"][0] < 2


def test_masked_pixels_is_the_error_over_hidden_pixels_alone(batch: Batch) -> None:
    network = MaskedPixels(patch=8, share=0.5).network(CifarResNet(), CLASSES).eval()
    outputs = network(batch.inputs)
    hidden = outputs["hidden"]
    assert hidden.sum(dim=(1, 2, 3)).tolist() == [8 * 64.0] * 6
    guess = network.head(network.trunk(batch.inputs * (1 - hidden)).maps)
    chosen = hidden.bool().expand_as(guess)
    expected = (guess[chosen] - batch.inputs[chosen]).square().mean()
    torch.testing.assert_close(MaskedPixels().loss(outputs, batch), expected)
    each = MaskedPixels().predictions(outputs, batch)["pixel_error"]
    torch.testing.assert_close(each.mean(), expected)


def test_hidden_pixels_do_not_reach_the_network(batch: Batch) -> None:
    network = MaskedPixels().network(CifarResNet(), CLASSES).eval()
    hidden = network(batch.inputs)["hidden"]
    other = batch.inputs + 100 * hidden
    seen: list[Tensor] = []
    network.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(batch.inputs)
    network(other)
    assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_evaluation_draws_the_same_each_time_and_leaves_the_generator_alone(
    objective: type[Pretext], batch: Batch
) -> None:
    network = objective().network(CifarResNet(), CLASSES).eval()
    before = torch.get_rng_state()
    first, second = (objective().loss(network(batch.inputs), batch) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("objective", [Simclr, MaskedPixels])
def test_training_draws_anew(objective: type[Pretext], batch: Batch) -> None:
    network = objective().network(CifarResNet(), CLASSES).train()
    first, second = (objective().loss(network(batch.inputs), batch) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("recipe", [CifarResNet(), Torchvision(name="vit_b_32", weights=None)], ids=["conv", "vit"])
def test_the_head_of_the_problem_is_the_last_stage(objective: type[Pretext], recipe: Callable) -> None:
    network = objective().network(recipe, CLASSES)
    side = recipe.input.size
    parts = stages(network, torch.zeros(2, 3, side, side))
    assert set(parts[-1].parameters) == {f"head.{name}" for name, _ in network.head.named_parameters()}
    assert len(parts) >= 5
    owned = [name for part in parts for name in part.parameters]
    assert sorted(owned) == sorted(name for name, _ in network.named_parameters())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_labels_only_the_problem_itself_is_measured(objective: type[Pretext], batch: Batch) -> None:
    metrics = objective().metrics([])
    outputs = objective().network(CifarResNet(), []).eval()(batch.inputs)
    objective().measure(metrics, outputs, batch)
    assert list(metrics.compute()) == [name for name in objective().metrics(CLASSES) if name != "knn_accuracy"]


def test_neighbours_vote_without_the_example_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 5, generator=generator), torch.randint(3, (40,), generator=generator)
    metric = KnnAccuracy(k=5)
    metric.update(features[:25], labels[:25])
    metric.update(features[25:], labels[25:])
    unit = features / features.norm(dim=1, keepdim=True)
    right = 0
    for i in range(40):
        similar = unit @ unit[i]
        similar[i] = -2
        voters = similar.argsort(descending=True)[:5]
        votes = [sum(math.exp(float(similar[j]) / 0.07) for j in voters if labels[j] == c) for c in range(3)]
        right += int(np.argmax(votes) == labels[i])
    assert metric.compute().item() == pytest.approx(right / 40)


def test_features_that_tell_classes_apart_are_right_however_few_others_there_are() -> None:
    labels = torch.arange(2).repeat(5)
    metric = KnnAccuracy(k=20)
    metric.update(torch.eye(2)[labels], labels)
    assert metric.compute().item() == 1


def test_a_view_is_a_part_of_the_image_mirrored_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.2, 0.8, 32).expand(64, 3, 32, 32)
    monkeypatch.setattr("frostline.objectives.views._drawn", lambda pixels, share: torch.tensor(False))
    views = Views(mean=(0, 0, 0), std=(1, 1, 1))(ramp)
    steps = views.diff(dim=3)[..., 2:-2]
    mirrored = (steps <= 1e-6).flatten(1).all(dim=1)
    assert ((steps >= -1e-6).flatten(1).all(dim=1) ^ mirrored).all()
    assert 16 < mirrored.sum() < 48
    widths = (views.amax(dim=3) - views.amin(dim=3))[:, 0, 16] / 0.6
    assert widths.min() > 0.2**0.5 * (3 / 4) ** 0.5 - 0.1
    assert widths.std() > 0.1


def test_a_turn_of_hue_leaves_the_luma() -> None:
    pixels = torch.rand(3, 3, 4, 4)
    turned = _turned(pixels, torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(_grey(turned), _grey(pixels), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[0], pixels[0], atol=1e-5, rtol=0)
    assert not torch.allclose(turned[1], pixels[1], atol=0.01)


def test_views_differ_by_image_and_stay_within_what_pixels_are() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 16, 16).expand(8, -1, -1, -1)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    normalised = (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    views = Views(mean=mean, std=std)(normalised)
    pixels = views * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert not any(torch.equal(views[0], other) for other in views[1:])
    grey = [(pixels[i].amax(dim=0) - pixels[i].amin(dim=0)).max() < 1e-5 for i in range(8)]
    assert 0 < sum(grey) < 8
