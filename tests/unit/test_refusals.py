"""What is refused before a run is recorded."""

import re
from contextlib import nullcontext

import pytest
import torch
from rigs import SGD, Rig, Toy
from torch import Tensor, nn

from frostline.config.compose import compose
from frostline.data.digits import Digits
from frostline.errors import RequestError
from frostline.freeze.auto_rgn import AutoRgn
from frostline.freeze.full import Full
from frostline.freeze.head import Head
from frostline.freeze.strategy import FreezeStrategy
from frostline.nn.backbone import ImageInput
from frostline.nn.batch_statistics import of_one_value
from frostline.refusals import OF_A_CONFIG, refuse_batches_of_one, refuse_second_passes


class Pooled(Toy):
    """Normalises also what is pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(torch.relu(self.norm(self.conv(x))))))
        return self.fc(self.last(self.pool(x).flatten(1)))


def digits(*, shots: int = 2, batch_size: int = 1, world: int = 1) -> Digits:
    data = Digits(seed=0, digits=[0, 1, 2], shots=shots, val_shots=1, image_size=8, batch_size=batch_size)
    data.expect(ImageInput(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    data.world = world
    data.setup()
    return data


def refusal(verb: str = "finetune", **options: int) -> str:
    rig = Rig(Full(), epochs=1, optimizer=SGD, network=Pooled())
    with pytest.raises(RequestError) as caught:
        refuse_batches_of_one(verb, rig.plan, rig.network, digits(**options))
    return str(caught.value)


PROBLEM = "batch normalisation cannot train on one value per channel, and this network pools an image to one"


def test_batches_of_one_are_refused_with_the_way_out_that_is_left() -> None:
    assert refusal() == f"data.batch_size: {PROBLEM}; choose one of at least 2, or freeze.norm_stats=frozen"
    assert refusal("pretrain") == f"data.batch_size: {PROBLEM}; choose one of at least 2"
    assert refusal(shots=1, batch_size=2, world=2) == (
        f"data: {PROBLEM}; take more than 3 examples to train on, at least 2 for each of 2 processes, "
        "or freeze.norm_stats=frozen"
    )


@pytest.mark.parametrize("frozen", [Full(norm_stats="frozen"), Head()], ids=["statistics", "stages"])
def test_batches_of_one_do_where_no_layer_takes_statistics_of_them(frozen) -> None:
    rig = Rig(frozen, epochs=1, optimizer=SGD, network=Pooled() if isinstance(frozen, Full) else Toy())
    refuse_batches_of_one("finetune", rig.plan, rig.network, digits())


def test_batches_of_one_do_where_images_are_normalised_by_their_pixels_and_larger_ones_do_everywhere() -> None:
    rig = Rig(Full(), epochs=1, optimizer=SGD)
    refuse_batches_of_one("finetune", rig.plan, rig.network, digits())
    rig = Rig(Full(), epochs=1, optimizer=SGD, network=Pooled())
    refuse_batches_of_one("finetune", rig.plan, rig.network, digits(batch_size=2))


def test_the_layers_that_torch_would_refuse_are_those_that_are_named() -> None:
    network, image = Pooled(), torch.randn(1, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert of_one_value(network, image) == ["last"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    with pytest.raises(ValueError, match=re.escape("Expected more than 1 value per channel")):
        network(image)
    network.last.eval()
    network(image)


@pytest.mark.parametrize(
    ("accelerator", "gpu", "precision", "refused"),
    [
        ("cpu", True, "16-mixed", True),
        ("auto", False, "16-mixed", True),
        ("auto", False, 16, True),
        ("auto", True, "16-mixed", False),
        ("gpu", False, "16-mixed", False),  # Lightning says that there is none
        ("cpu", True, "bf16-mixed", False),
        ("cpu", True, None, False),
    ],
)
def test_sixteen_bits_that_lightning_would_exchange_are_refused(
    accelerator: str, gpu: bool, precision: object, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: gpu)
    cfg = compose("finetune", [f"trainer.accelerator={accelerator}"])
    cfg.trainer = {**cfg.trainer, "precision": precision}
    sentence = (
        f"trainer.precision={precision}: is for a GPU; choose trainer.precision=bf16-mixed, or a machine with one"
    )
    with pytest.raises(RequestError, match=re.escape(sentence)) if refused else nullcontext():
        for check in OF_A_CONFIG:
            check(cfg)


def test_a_backend_that_torch_does_not_have_is_refused_before_anything_is_built() -> None:
    cfg = compose("finetune", ["compile=inductr"])
    with pytest.raises(RequestError, match=r"^compile: torch has no backend 'inductr'; did you mean 'inductor'\?$"):
        for check in OF_A_CONFIG:
            check(cfg)


class NormalisedInTheStem(Toy):
    """Keeps the activations of all that updates statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 1) for _ in range(3))


@pytest.mark.parametrize(
    ("strategy", "network", "verb", "way_out"),
    [
        (Full(), Toy, "finetune", "add freeze.norm_stats=frozen, or do without"),
        (Full(), Toy, "pretrain", "do without"),
        (AutoRgn(), Toy, "finetune", "add freeze.norm_stats=frozen, or do without"),
        (Full(norm_stats="frozen"), Toy, "finetune", None),
        (Head(), Toy, "finetune", None),
        (Full(), NormalisedInTheStem, "finetune", None),
    ],
)
def test_statistics_that_a_second_pass_would_update_twice_are_refused(
    strategy: FreezeStrategy, network: type[Toy], verb: str, way_out: str | None
) -> None:
    rig = Rig(strategy, epochs=1, optimizer=SGD, network=network())
    cfg = compose("finetune", ["activation_checkpointing=true"])
    problem = "activation_checkpointing: a second pass would update the statistics of normalisation layers twice; "
    with nullcontext() if way_out is None else pytest.raises(RequestError, match=f"^{problem}{way_out}$"):
        refuse_second_passes(verb, cfg, rig.plan, rig.network)
    refuse_second_passes(verb, compose("finetune", []), rig.plan, rig.network)
