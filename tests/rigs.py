"""A small network with every kind of layer that freezing can get wrong, data for it, and a way to train it."""

import functools
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from frostline.batch import Batch
from frostline.digest import digests
from frostline.engine import Freezing
from frostline.freeze.strategy import Strategy
from frostline.modules import FineTuning
from frostline.nn.adapters import attach
from frostline.nn.stages import Stage, stages
from frostline.objectives.classification import Classification
from frostline.optim.partition import partition
from frostline.optim.schedules import constant
from frostline.plan import Plan
from frostline.regularizers.regularizer import Regularizer, Start


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(torch.relu(self.norm(self.conv(x)))) + x


class Toy(nn.Module):
    """Convolutions, batch normalisation, dropout: stem, body1 to body3, head."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.first, self.second, self.third = (Block(width) for _ in range(3))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = self.third(self.second(self.first(x)))
        return self.fc(self.pool(x).flatten(1))


class Examples(Dataset[Batch]):
    """Sixteen small images in three classes, with statistics far from those a fresh BatchNorm has stored."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(16, 3, 6, 6, generator=generator) * 2 + 5
        self.targets = torch.arange(16) % 3

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Batch:
        return Batch(self.inputs[index], self.targets[index], torch.tensor(index))


class ToyData(pl.LightningDataModule):
    """The same examples for training and validation, in a fixed order."""

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(Examples(), batch_size=8, generator=torch.Generator())  # leaves the global one alone

    val_dataloader = train_dataloader


class Rig:
    """A toy network under a strategy, ready for Lightning."""

    def __init__(
        self,
        strategy: Strategy,
        *,
        epochs: int,
        optimizer: Callable,
        network: nn.Module | None = None,
        per_epoch: int = 2,
        scheduler: Callable | None = None,
        regularizer: Regularizer | None = None,
        parts: tuple[Stage, ...] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.network = network or Toy()
        self.stages = parts or stages(self.network, Examples().inputs[:2])
        if strategy.adapter is not None and parts is None:
            example = Examples().inputs[:2]
            _, self.stages = attach(self.network, self.stages, strategy.adapter, example=example, seed=0)
        if regularizer is not None:
            regularizer.start(beginning(self.network))
        groups = partition(self.stages, strategy.grain)
        self.plan = Plan(strategy=strategy, stages=self.stages, groups=groups, epochs=epochs, per_epoch=per_epoch)
        self.freezing = Freezing(self.network, self.plan)
        self.module = FineTuning(
            self.network,
            Classification(),
            regularizer=regularizer,
            groups=self.plan.groups,
            optimizer=optimizer,
            scheduler=scheduler or constant,
            classes=["a", "b", "c"],
        )

    @property
    def unmoving(self) -> dict[str, str]:
        """Digests of what the whole run leaves as it is now."""
        stays = self.plan.never_moves()
        return digests({name: tensor for name, tensor in self.network.state_dict().items() if name in stays})

    def fit(
        self,
        *callbacks: pl.Callback,
        data: pl.LightningDataModule | None = None,
        ckpt_path: object = None,
        weights_only: bool | None = None,
        **trainer: object,
    ) -> pl.Trainer:
        options = {
            "max_epochs": self.plan.epochs,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        runner = pl.Trainer(**(options | trainer), callbacks=[self.freezing, *callbacks])
        runner.fit(self.module, datamodule=data or ToyData(), ckpt_path=ckpt_path, weights_only=weights_only)
        return runner


def beginning(network: nn.Module) -> Start:
    """What a regularizer may look at when it starts."""
    return Start(
        network=network,
        stages=stages(network, Examples().inputs[:2]),
        batches=lambda: ToyData().train_dataloader(),
        loss=Classification().loss,
    )


SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
ADAMW = functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
