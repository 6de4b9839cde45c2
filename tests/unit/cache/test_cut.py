"""A network does the same when what its frozen stages gave is given again, wherever it is cut."""

from copy import deepcopy

import pytest
import torch
from language import saved
from rigs import Toy
from torch import nn
from torchvision import models
from transformers import AutoModelForSequenceClassification

from frostline.batch import Batch
from frostline.cache.cut import Cut, NotExact, size_of
from frostline.cache.find_cut import find_cut, judge_of
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.stages import Stage, stages
from frostline.nn.torchvision_detector import TorchvisionDetector
from frostline.nn.torchvision_segmenter import TorchvisionSegmenter
from frostline.nn.transformers import TextClassifier
from frostline.objectives.classification import Classification
from frostline.objectives.detection import Detection
from frostline.objectives.objective import Objective
from frostline.objectives.segmentation import Segmentation

CLASSES = 4


def images(count: int = 3, *, size: int = 32) -> Batch:
    return Batch(torch.randn(count, 3, size, size), torch.arange(count) % CLASSES, torch.arange(count))


def masked(count: int = 3) -> Batch:
    return Batch(torch.randn(count, 3, 32, 32), torch.randint(CLASSES, (count, 32, 32)), torch.arange(count))


def texts(count: int = 3) -> Batch:
    lengths = [9, 5, 7, 8][:count]
    mask = torch.tensor([[int(place < length) for place in range(9)] for length in lengths])
    return Batch({"input_ids": mask * torch.randint(5, 20, (count, 9)), "attention_mask": mask}, *images(count)[1:])


def boxed(count: int = 3) -> Batch:
    pictures = [torch.rand(3, 64, 64) for _ in range(count)]
    one = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    return Batch(
        {"images": pictures, "targets": [dict(one) for _ in range(count)]}, [dict(one)] * count, torch.arange(count)
    )


def modes_above(cut: int, parts: tuple[Stage, ...]) -> dict[str, bool]:
    return {name: place >= cut for place, part in enumerate(parts) for name in part.modules}


def cut_at(cut: int, network: nn.Module, batch: Batch, objective: Objective, parts: tuple[Stage, ...]) -> Cut:
    return find_cut(network, parts, cut, modes_above(cut, parts), batch=batch, judge=judge_of(objective))


def bert(folder) -> nn.Module:
    saved("bert", folder, model=AutoModelForSequenceClassification)
    return TextClassifier(name=str(folder)).network(CLASSES)


NETWORKS = {
    "toy": (lambda _: Toy(classes=CLASSES), images, Classification),
    "resnet20": (lambda _: CifarResNet().network(CLASSES), images, Classification),
    "resnet18": (lambda _: models.resnet18(num_classes=CLASSES), images, Classification),
    "googlenet": (
        lambda _: models.googlenet(num_classes=CLASSES, init_weights=False, aux_logits=True),
        lambda count=3: images(count, size=64),
        Classification,
    ),
    "bert": (bert, texts, Classification),
    "lraspp": (
        lambda _: TorchvisionSegmenter(name="lraspp_mobilenet_v3_large", weights=None).network(CLASSES),
        masked,
        Segmentation,
    ),
}


def in_other_company(cut: Cut, network: nn.Module, batch: Batch) -> list[torch.Tensor]:
    """What is kept of a batch, taken from two of its halves."""
    halves = [cut.taken(network, batch.part(part).inputs) for part in (slice(0, 2), slice(2, 4))]
    return [torch.cat(rows) for rows in zip(*halves, strict=True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_other_examples_come_out_the_same_at_every_stage(name, tmp_path) -> None:
    torch.manual_seed(0)
    build, drawn, objective = NETWORKS[name]
    network, loss = build(tmp_path), objective()
    batch, other = drawn(3), drawn(4)
    parts = stages(network, batch.part(slice(2)).inputs)
    judge = judge_of(loss)
    for depth in sorted({1, len(parts) // 2, len(parts) - 1}):
        cut = cut_at(depth, network, batch, loss, parts)
        network.eval()
        real = judge(network, other)
        kept = in_other_company(cut, network, other)
        assert [len(tensor) for tensor in kept] == [4] * len(cut.kept)
        inputs = torch.full_like(other.inputs, torch.nan) if cut.blind else other.inputs
        with cut.giving(network, kept, size_of(other.inputs)):
            ours = judge(network, other._replace(inputs=inputs))
        with cut.giving(network, [tensor.flip(0) for tensor in kept], size_of(other.inputs)):
            wrong = judge(network, other._replace(inputs=inputs))
        torch.testing.assert_close(ours, real, rtol=1e-4, atol=1e-5)
        assert not torch.equal(wrong[1], real[1]), f"{name} does not look at what was kept below stage {depth}"


def test_bytes_are_those_of_what_is_kept() -> None:
    network, batch = CifarResNet().network(CLASSES), images()
    parts = stages(network, batch.inputs[:2])
    cuts = [cut_at(depth, network, batch, Classification(), parts) for depth in (2, 3, 4)]
    sides = [16 * 32 * 32, 32 * 16 * 16, 64]  # the head alone takes what is pooled
    assert [cut.bytes(size_of(batch.inputs)) for cut in cuts] == [3 * side * 4 for side in sides]
    assert [cut.tail for cut in cuts] == [None, None, "linear"]
    assert all(cut.blind for cut in cuts)


def test_flops_are_those_of_the_stages_below() -> None:
    network, batch = CifarResNet().network(CLASSES), images()
    parts = stages(network, batch.inputs[:2])
    stem = 2 * 3 * 16 * 9 * 32 * 32
    first = 6 * 2 * 16 * 16 * 9 * 32 * 32
    flops = [cut_at(depth, network, batch, Classification(), parts).flops for depth in (1, 2)]
    assert flops == [stem, stem + first]


def test_tokens_of_a_shorter_batch_take_less() -> None:
    batch = texts()
    assert size_of(batch.inputs) == (3, 9)
    assert size_of({name: part[:2, :5] for name, part in batch.inputs.items()}) == (2, 5)


def test_the_network_is_left_as_it_was() -> None:
    network, batch = CifarResNet().network(CLASSES).eval(), images()
    parts = stages(network, batch.inputs[:2])
    before, generator = deepcopy(network.state_dict()), torch.get_rng_state()
    cut_at(3, network, batch, Classification(), parts)
    torch.testing.assert_close(dict(network.state_dict()), dict(before), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training or "forward" in vars(module) for module in network.modules())


class Noisy(Toy):
    """A network that changes its images at random while it trains."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images + torch.randn_like(images) if self.training else images)


class Centred(Toy):
    """A network whose first stage takes the mean of the batch off."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class Skipping(Toy):
    """A network that leaves a block out at random, though seldom."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        if not self.training or torch.rand(()) > 0.001:
            x = self.first(x)
        return self.fc(self.pool(self.third(self.second(x))).flatten(1))


class Counting(Toy):
    """A network whose first stage says how many examples it saw."""

    class Stem(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return super().forward(x), len(x)

    def __init__(self) -> None:
        super().__init__()
        self.conv = self.Stem(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps, count = self.conv(x)
        x = self.third(self.second(self.first(torch.relu(self.norm(maps)))))
        return self.fc(self.pool(x).flatten(1)) * count


def refusal(network: nn.Module, batch: Batch, cut: int = 2) -> str:
    parts = stages(network, batch.inputs[:2])
    with pytest.raises(NotExact) as caught:
        cut_at(cut, network, batch, Classification(), parts)
    return str(caught.value)


def test_what_differs_from_pass_to_pass_is_not_cut() -> None:
    assert refusal(Noisy(), images()) == "what the frozen part gives for an example is not always the same"


def test_what_depends_on_the_others_of_its_batch_is_not_cut() -> None:
    said = "what the frozen part gives for an example depends on the others of its batch"
    assert refusal(Centred(), images()) == said
    assert refusal(Counting(), images(), cut=1) == "what 'conv' gives depends on the batch"


def test_what_is_left_out_at_random_is_not_cut_however_seldom() -> None:
    assert refusal(Skipping(), images()) == "what the frozen part gives for an example is not always the same"


def test_inputs_that_somebody_listens_to_are_shown() -> None:
    network, batch = Toy(classes=CLASSES), images()
    network.register_forward_pre_hook(lambda *_: None)
    parts = stages(network, batch.inputs[:2])
    assert not cut_at(2, network, batch, Classification(), parts).blind


def test_what_somebody_listens_to_is_not_cut() -> None:
    network = Toy()
    network.conv.register_forward_hook(lambda *_: None)
    assert refusal(network, images()) == "something looks at what 'conv' gives while training"


def test_too_few_examples_prove_nothing() -> None:
    assert refusal(Toy(), images(2)) == "there are too few examples to prove it on"


class Folded(nn.Module):
    """A network whose first layer takes all pixels of a batch for one row each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = self.first(images.movedim(1, -1).reshape(-1, 3))
        maps = self.second(rows).reshape(len(images), -1, 6)
        return self.head(maps.mean(1))


def test_what_is_no_row_for_each_example_is_not_cut() -> None:
    assert refusal(Folded(), images(), cut=1) == "what 'first' gives is not one row for each example"


def test_detectors_are_cut_where_their_images_are_of_one_size() -> None:
    torch.manual_seed(0)
    network = TorchvisionDetector(name="ssdlite320_mobilenet_v3_large", weights=None, size=64).network(2)
    batch = boxed()
    parts = stages(network, batch.part(slice(2)).inputs)
    cut = cut_at(len(parts) - 1, network, batch, Detection(), parts)
    assert cut.kept
    assert not cut.blind
