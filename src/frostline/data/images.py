"""What every image classification dataset shares: exact splits, exact order, batches that are ready for a network."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from frostline.batch import Batch
from frostline.data.examples import Source
from frostline.data.image_split import ImageSplit, as_fetched
from frostline.data.order import EpochOrder, Share, leaves_one_over
from frostline.data.pixels import AugmentedImages, Images, fitted
from frostline.data.splits import Division, divide, draw_shots
from frostline.nn.backbone import ImageInput
from frostline.seeds import stream

SPLITS = ("train", "val", "test")


@dataclass(kw_only=True, eq=False, repr=False)
class ImageData(pl.LightningDataModule, ABC):
    """Images with one label each, in three splits that share no content.

    Attributes:
        seed: Draws the shots, the order of training examples and their augmentation.
        batch_size: Examples per batch and process.
        image_size: Side of the square that the network sees, in pixels; None for what the network expects.
        num_workers: Processes that load batches; 0 loads in the main process. Any number gives the same batches.
        shots: Training examples per class, exactly; None for all.
        val_shots: Validation examples per class, exactly; None for all.
        split_seed: Carves val and test. It does not follow `seed`, so that no run trains on what another run tests on.
        val_fraction: Share of the training examples that becomes val where the source has none.
        test_fraction: Share of the training examples that becomes test where the source has none.
        augment: Show every training example changed at random in each epoch, in the dataset's own way.
    """

    seed: int
    batch_size: Annotated[int, Gt(0)] = 64
    image_size: Annotated[int, Gt(0)] | None = None
    num_workers: Annotated[int, Ge(0)] = 0
    shots: Annotated[int, Gt(0)] | None = None
    val_shots: Annotated[int, Gt(0)] | None = None
    split_seed: int = 0
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.15
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.15
    augment: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._expected: ImageInput | None = None
        self._splits: dict[str, ImageSplit] = {}
        self._begin = {"epoch": 0, "batch": 0}
        self.world = 1  # processes that share the data, until a trainer says so

    @abstractmethod
    def source(self) -> Source:
        """Return the raw examples; read once per process, whatever the number of data modules."""

    @abstractmethod
    def augmentation(self, size: int) -> Callable[[Tensor], Tensor]:
        """Return the random change of a fitted training image, uint8 (3, size, size) to the same."""

    def augmented(self, images: Images, size: int) -> Images:
        """Return the training images as augmentation shows them, uint8 of shape (3, size, size)."""
        return AugmentedImages(images=fitted(images, size), transform=self.augmentation(size))

    def size_for(self, expected: int) -> int:
        """Return the side in pixels where the user chose none, given what the network expects."""
        return expected

    def expect(self, spec: ImageInput) -> None:
        """Take the normalisation, and the size where the user chose none, from what the network expects."""
        size = self.image_size or self.size_for(spec.size)
        self._expected = ImageInput(size=size, mean=spec.mean, std=spec.std)
        self._splits = {}

    def setup(self, stage: str | None = None) -> None:
        """Draw the splits, once.

        Raises:
            DataError: The data is not there, not readable or too little for what was asked.
        """
        if not self._splits:
            self._splits = {split: self._split(split) for split in SPLITS}

    @property
    def spec(self) -> ImageInput:
        """What the network is shown: side in pixels, mean and standard deviation per channel."""
        assert self._expected is not None, "call expect() with the network's ImageInput before the data is used"
        return self._expected

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the labels."""
        return list(self.source().classes)

    @property
    def train(self) -> ImageSplit:
        """What is trained on."""
        return self._drawn("train")

    @property
    def val(self) -> ImageSplit:
        """What every choice is made on."""
        return self._drawn("val")

    @property
    def test(self) -> ImageSplit:
        """What is looked at once, at the end."""
        return self._drawn("test")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Load this process's share of the training examples in the order of (seed, epoch)."""
        rank, world = self._process()
        order = EpochOrder(len(self.train), seed=self.seed, batch_size=self.batch_size, rank=rank, world=world)
        order.start(**self._begin)
        return self._loader(self.train, order, drop_last=leaves_one_over(len(order), batch_size=self.batch_size))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Load this process's share of the validation examples, none twice."""
        return self._evaluation_loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Load this process's share of the test examples, none twice."""
        return self._evaluation_loader(self.test)

    def start(self, *, epoch: int, batch: int) -> None:
        """Let the next training loader begin at batch `batch` of `epoch`, where an interrupted run goes on."""
        self._begin = {"epoch": epoch, "batch": batch}

    def reference_dataloader(self) -> DataLoader[Batch]:
        """Load all training examples in order, without augmentation, as evaluation shows them."""
        examples = self.train.examples
        plain = ImageSplit(examples, pixels=fitted(examples.images, self.spec.size), spec=self.spec, seed=None)
        return self._loader(plain, Share(len(plain)), drop_last=leaves_one_over(len(plain), batch_size=self.batch_size))

    def example_ids(self, split: str) -> list[str]:
        """Return what people call each example of a split, by place."""
        return list(self._drawn(split).examples.ids)

    def fingerprint(self) -> str:
        """Return one SHA-256 over class names, contents and labels of all splits as drawn."""
        hashes = [self._drawn(split).examples.hash(self.classes) for split in SPLITS]
        return sha256("\n".join([*self.classes, *hashes]).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return, in plain types, all that says which examples a run saw and how."""
        return {
            "source": self.source().name,
            "classes": self.classes,
            "fingerprint": self.fingerprint(),
            "splits": {split: self._describe(split) for split in SPLITS},
            "duplicates_removed": dict(self._division().duplicates),
            "ignored_files": self.source().ignored,
            "image_size": self.spec.size,
            "mean": list(self.spec.mean),
            "std": list(self.spec.std),
            **{name: getattr(self, name) for name in ("seed", "split_seed", "shots", "val_shots", "augment")},
            **{name: getattr(self, name) for name in ("val_fraction", "test_fraction")},
        }

    def _describe(self, split: str) -> dict[str, Any]:
        drawn, whole = self._drawn(split).examples, getattr(self._division(), split)
        return {
            "examples": len(drawn),
            "per_class": drawn.per_class(self.classes),
            "content": whole.hash(self.classes),
            "drawn": drawn.hash(self.classes),
        }

    def _division(self) -> Division:
        return divide(
            self.source(), seed=self.split_seed, val_fraction=self.val_fraction, test_fraction=self.test_fraction
        )

    def _drawn(self, split: str) -> ImageSplit:
        assert self._splits, "call setup() before the splits are used"
        return self._splits[split]

    def _split(self, split: str) -> ImageSplit:
        examples = getattr(self._division(), split)
        key = {"train": "shots", "val": "val_shots"}.get(split)
        shots = getattr(self, key) if key else None
        if shots is not None:
            examples = draw_shots(examples, classes=self.classes, shots=shots, seed=self.seed, key=f"data.{key}")
        random = self.augment and split == "train"
        size = self.spec.size
        pixels = self.augmented(examples.images, size) if random else fitted(examples.images, size)
        return ImageSplit(examples, pixels=pixels, spec=self.spec, seed=self.seed if random else None)

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, self.world)

    def _evaluation_loader(self, split: ImageSplit) -> DataLoader[Batch]:
        rank, world = self._process()
        return self._loader(split, Share(len(split), rank=rank, world=world), drop_last=False)

    def _loader(self, split: ImageSplit, sampler: Sampler[int], *, drop_last: bool) -> DataLoader[Batch]:
        return DataLoader(
            split,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_fetched,
            # Without a generator of its own, a loader draws from the global one and moves everything after it.
            generator=torch.Generator().manual_seed(stream(self.seed, "workers")),
            pin_memory=torch.cuda.is_available(),
        )
