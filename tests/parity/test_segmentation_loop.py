"""A segmenter trains as in the loop of torchvision's reference script, and its losses are means over pixels."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from street import plant
from torch import nn
from torch.nn.functional import cross_entropy

from frostline.data.segmentation_folder import SegmentationFolder
from frostline.engine import Freezing
from frostline.freeze.full import Full
from frostline.freeze.head import Head
from frostline.freeze.strategy import Strategy
from frostline.modules import FineTuning
from frostline.nn.stages import stages
from frostline.nn.torchvision_segmenter import TorchvisionSegmenter
from frostline.objectives.segmentation import Segmentation
from frostline.optim.partition import partition
from frostline.optim.schedules import constant
from frostline.plan import Plan

SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
EPOCHS = 2


class Losses(pl.Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.seen.append(outputs["loss"].detach())


@pytest.fixture
def data(tmp_path: Path) -> SegmentationFolder:
    root = plant(tmp_path, 12, size=(32, 32))
    for number in range(0, 12, 3):  # some images have few pixels that count
        mask = np.full((32, 32), 255, dtype=np.uint8)
        mask[:2] = 1
        Image.fromarray(mask).save(root / "masks" / f"{number:03d}.png")
    data = SegmentationFolder(seed=0, root=str(root), batch_size=4, image_size=32)
    data.expect(RECIPE.input)
    data.setup()
    return data


RECIPE = TorchvisionSegmenter(name="lraspp_mobilenet_v3_large", weights=None)


def trained(network: nn.Module, data: SegmentationFolder, strategy: Strategy) -> tuple[list[torch.Tensor], pl.Trainer]:
    parts = stages(network, next(iter(data.val_dataloader())).inputs[:2])
    plan = Plan(strategy=strategy, stages=parts, groups=partition(parts, strategy.grain), epochs=EPOCHS, per_epoch=2)
    module = FineTuning(
        network,
        Segmentation(),
        regularizer=None,
        groups=plan.groups,
        optimizer=SGD,
        scheduler=constant,
        classes=data.class_names,
    )
    losses, quiet = Losses(), {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[Freezing(network, plan), losses],
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(module, datamodule=data)
    return losses.seen, trainer


def by_hand(network: nn.Module, data: SegmentationFolder, *, head: bool) -> list[torch.Tensor]:
    model = network.model
    model.train()
    model.backbone.train(not head).requires_grad_(not head)
    optimizer, losses = SGD([p for p in model.parameters() if p.requires_grad]), []
    loader = data.train_dataloader()
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        for images, labels, _ in loader:
            loss = cross_entropy(model(images)["out"], labels, ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("strategy", [Full(), Head()], ids=["full", "head"])
def test_every_step_has_the_loss_of_the_plain_loop(data: SegmentationFolder, strategy: Strategy) -> None:
    torch.manual_seed(0)
    start = RECIPE.network(len(data.class_names))
    ours, _ = trained(network := copy.deepcopy(start), data, strategy)
    theirs = by_hand(start, data, head=isinstance(strategy, Head))
    assert len(ours) == 4
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-5, atol=1e-6)
    assert ours[0] != ours[-1]
    for name, tensor in start.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_the_loss_of_a_split_is_the_mean_over_its_pixels(data: SegmentationFolder) -> None:
    torch.manual_seed(0)
    network = RECIPE.network(len(data.class_names))
    data.batch_size = 1
    _, trainer = trained(network, data, Head())
    batches = list(data.val_dataloader())
    counts = {int((batch.targets != -100).sum()) for batch in batches}
    assert len(counts) > 1, "a mean over images would be another"
    network.eval()
    with torch.no_grad():
        losses = [cross_entropy(network(b.inputs), b.targets, reduction="sum") for b in batches]
    pixels = sum(int((batch.targets != -100).sum()) for batch in batches)
    torch.testing.assert_close(trainer.callback_metrics["val/loss"], sum(losses) / pixels)
