"""What every dataset shares, whatever its examples are: exact splits, exact order, exact resumption, a fingerprint."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Annotated, Any, ClassVar

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt, Lt
from torch.utils.data import DataLoader

from frostline.batch import Batch
from frostline.data.examples import Examples, Source
from frostline.data.intact import some_of
from frostline.data.listing import LEFT_OUT
from frostline.data.order import EpochOrder, Share, leaves_one_over, none_alone
from frostline.data.split import Split, as_fetched
from frostline.data.splits import Division, Duplicate, divide, draw_shots
from frostline.seeds import stream

SPLITS = ("train", "val", "test")

_NAMED = 20
"""Names that a record has of each thing that is left out."""


@dataclass(kw_only=True, eq=False, repr=False)
class SplittedData(pl.LightningDataModule, ABC):
    """Examples in three splits that share no content.

    Attributes:
        seed: Draws the shots, the order of training examples and their augmentation.
        batch_size: Examples per batch and process. Training leaves out, others in each epoch, what does not divide
            evenly among processes, and one example that would be alone in the last of several batches, on which batch
            normalisation cannot train.
        num_workers: Processes that load batches; 0 loads in the main process. Any number gives the same batches.
        shots: Training examples per class, exactly; None for all. Where an example has not one class, of them all.
        val_shots: Validation examples, as `shots`; None for all.
        views: Where examples are changed at random, how many ways of showing each there are, in turn: what frozen
            stages make of them can then be kept. None for a new one in each epoch.
        split_seed: Carves val and test. It does not follow `seed`, so that no run trains on what another run tests on.
        val_fraction: Share of the training examples that becomes val where the source has none.
        test_fraction: Share of the training examples that becomes test where the source has none.
    """

    tasks: ClassVar[tuple[str, ...]]
    """What its targets are good for: data, model and objective of a run share a task."""
    sized_by: ClassVar[str] = "data.image_size"
    """The key that says how large an example is shown."""
    left_out: ClassVar[str] = LEFT_OUT
    """What the source's `ignored` are and why they are none of its examples, in words, after their number."""

    seed: int
    batch_size: Annotated[int, Gt(0)] = 64
    num_workers: Annotated[int, Ge(0)] = 0
    shots: Annotated[int, Gt(0)] | None = None
    val_shots: Annotated[int, Gt(0)] | None = None
    views: Annotated[int, Gt(0)] | None = None
    split_seed: int = 0
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.15
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.15

    def __post_init__(self) -> None:
        super().__init__()
        self._splits: dict[str, Split] = {}
        self._begin = {"epoch": 0, "batch": 0}
        self.world = 1  # processes that share the data, until a trainer says so

    def check(self) -> None:
        """Find what is wrong with the data before a network is there to show it to.

        Raises:
            DataError: The data is not there or not readable.
        """
        self.prepare_data()
        self.source()

    @abstractmethod
    def source(self) -> Source:
        """Return the raw examples; read once per process, whatever the number of data modules."""

    @abstractmethod
    def expect(self, spec: Any) -> None:
        """Take from what the network expects what the user has not chosen; splits that were drawn are forgotten.

        Raises:
            RequestError: The network takes something else.
        """

    @abstractmethod
    def split(self, examples: Examples, *, random: bool) -> Split:
        """Return examples as a network takes them, changed at random in each epoch or always the same."""

    def shown(self) -> dict[str, Any]:
        """Return, in plain types, how examples are shown to the network."""
        return {}

    def setup(self, stage: str | None = None) -> None:
        """Draw the splits, once.

        Raises:
            DataError: The data is not there, not readable or too little for what was asked.
        """
        if not self._splits:
            self._splits = {split: self._draw(split) for split in SPLITS}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of the labels."""
        return list(self.source().classes)

    def drawn(self, split: str) -> Split:
        """Return `train`, which is trained on; `val`, for every choice; or `test`, looked at once, at the end."""
        assert self._splits, "call setup() before the splits are used"
        return self._splits[split]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Load this process's share of the training examples in the order of (seed, epoch)."""
        rank, world = self._process()
        order = EpochOrder(len(self.drawn("train")), seed=self.seed, batch_size=self.batch_size, rank=rank, world=world)
        order.start(**self._begin)
        drop_last = leaves_one_over(len(order), batch_size=self.batch_size)
        return self._loader(self.drawn("train"), batch_size=self.batch_size, sampler=order, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Load this process's share of the validation examples, none twice."""
        return self._evaluation_loader(self.drawn("val"))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Load this process's share of the test examples, none twice."""
        return self._evaluation_loader(self.drawn("test"))

    def start(self, *, epoch: int, batch: int) -> None:
        """Let the next training loader begin at batch `batch` of `epoch`, where an interrupted run goes on."""
        self._begin = {"epoch": epoch, "batch": batch}

    def batches(self, split: str, *, epoch: int, blind: bool) -> Iterator[Batch]:
        """Yield the batches of `train` or `val` as a trainer takes them in an epoch; this process loads them.

        Args:
            split: Which of the two.
            epoch: Which order.
            blind: Whether their inputs are left out, since nobody looks at them.
        """
        loader = self.train_dataloader() if split == "train" else self.val_dataloader()
        order: Any = loader.sampler
        order.blind = blind
        if split == "train":
            order.start(epoch=epoch, batch=0)
        assert loader.batch_sampler is not None
        for keys in loader.batch_sampler:
            yield self.drawn(split).__getitems__(keys)

    def reference_dataloader(self) -> DataLoader[Batch]:
        """Load all training examples in order, without augmentation, as evaluation shows them.

        Batch normalisation takes statistics of each batch, so one example that is left over joins the batch before it.
        """
        plain = self.split(self.drawn("train").examples, random=False)
        return self._loader(plain, batch_sampler=self.reference_places())

    def reference_places(self) -> list[list[int]]:
        """Return which examples are in each batch of `reference_dataloader`."""
        return none_alone(len(self.drawn("train")), batch_size=self.batch_size)

    def in_order(self, split: Split, *, view: int, at_once: int) -> DataLoader[Batch]:
        """Load all examples of a split in order, so many at once, as one of its views shows them."""
        keys = range(view * len(split), (view + 1) * len(split))
        batches = [list(keys[begin : begin + at_once]) for begin in range(0, len(keys), at_once)]
        return self._loader(split, batch_sampler=batches)

    def example_ids(self, split: str) -> list[str]:
        """Return what people call each example of a split, by place."""
        return list(self.drawn(split).examples.ids)

    def fingerprint(self) -> str:
        """Return one SHA-256 over class names, contents and labels of all splits as drawn."""
        hashes = [self.drawn(split).examples.hash(self.source().strata) for split in SPLITS]
        return sha256("\n".join([*self.class_names, *hashes]).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return, in plain types, all that says which examples a run saw and how."""
        drawing = ("seed", "split_seed", "shots", "val_shots", "views", "val_fraction", "test_fraction")
        return {
            "source": self.source().name,
            "classes": self.class_names,
            "fingerprint": self.fingerprint(),
            "splits": {split: self._describe(split) for split in SPLITS},
            "duplicates_removed": {split: len(lost) for split, lost in self._division().duplicates.items()},
            "duplicates": {split: _first_ones(lost) for split, lost in self._division().duplicates.items()},
            "contradictory_labels": len(self._division().contradictions),
            "contradictions": [list(pair) for pair in self._division().contradictions[:_NAMED]],
            "ignored_files": len(self.source().ignored),
            "ignored": list(self.source().ignored[:_NAMED]),
            **self.shown(),
            **{name: getattr(self, name) for name in drawing},
        }

    def remarks(self) -> list[str]:
        """Return sentences on what a person should know of the data although it is no mistake."""
        return [*self.source().remarks, *self._ignored(), *self._duplicate(), *self._contradictory(), *self._absent()]

    def _ignored(self) -> list[str]:
        ignored, name = self.source().ignored, self.source().heading
        some = some_of([f"'{each}'" for each in ignored])
        return [f"{name}: {len(ignored)} {self.left_out}: {some}"] if ignored else []

    def _duplicate(self) -> list[str]:
        lost = {split: found for split, found in self._division().duplicates.items() if found}
        if not lost:
            return []
        pairs = [(split, each) for split, found in lost.items() for each in found]
        split, one = next((pair for pair in pairs if pair[0] != pair[1].by), pairs[0])
        counts = ", ".join(f"{len(found)} of {split}" for split, found in lost.items())
        told = f"{len(pairs)} example(s) are left out ({counts}), as their content stands elsewhere too"
        again = "stands there twice" if (one.name, split) == (one.kept, one.by) else f"is '{one.kept}' of {one.by}"
        return [f"{self.source().heading}: {told}, such as '{one.name}' of {split}, which {again}"]

    def _contradictory(self) -> list[str]:
        if not (found := self._division().contradictions):
            return []
        one, other = found[0]
        which = f"'{one}' and '{other}'" if one != other else f"that of '{one}'"
        told = f"the same content stands under different labels {len(found)} time(s), such as {which}"
        return [f"{self.source().heading}: {told}; in train, {self.source().splits['train'].first} is kept"]

    def _absent(self) -> list[str]:
        """Name the classes that a split has no example of, so that nothing is chosen or measured by them there."""
        counts = {split: self.drawn(split).examples.balance(self.source().strata) for split in ("val", "test")}
        absent = {
            split: [f"'{name}'" for name, count in found.items() if count == 0] for split, found in counts.items()
        }
        return [f"{self.source().heading}: {split} has no example of {some_of(n)}" for split, n in absent.items() if n]

    def _describe(self, split: str) -> dict[str, Any]:
        drawn, whole, strata = self.drawn(split).examples, getattr(self._division(), split), self.source().strata
        return {
            "examples": len(drawn),
            "per_class": drawn.balance(strata),
            "content": whole.hash(strata),
            "drawn": drawn.hash(strata),
        }

    def _division(self) -> Division:
        return divide(
            self.source(), seed=self.split_seed, val_fraction=self.val_fraction, test_fraction=self.test_fraction
        )

    def _draw(self, split: str) -> Split:
        examples = getattr(self._division(), split)
        key = {"train": "shots", "val": "val_shots"}.get(split)
        shots = getattr(self, key) if key else None
        if shots is not None:
            strata = self.source().strata
            examples = draw_shots(examples, strata=strata, shots=shots, seed=self.seed, key=f"data.{key}")
        drawn = self.split(examples, random=split == "train")
        drawn.views = self.views
        return drawn

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, self.world)

    def _evaluation_loader(self, split: Split) -> DataLoader[Batch]:
        rank, world = self._process()
        share = Share(len(split), rank=rank, world=world)
        return self._loader(split, batch_size=self.batch_size, sampler=share)

    def _loader(self, split: Split, **batches: Any) -> DataLoader[Batch]:
        return DataLoader(
            split,
            **batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_fetched,
            # Without a generator of its own, a loader draws from the global one and moves everything after it.
            generator=torch.Generator().manual_seed(stream(self.seed, "workers")),
            pin_memory=_has_gpu(),
        )


@cache
def _has_gpu() -> bool:
    """Tell whether this machine has a GPU, for which torch looks through the system's libraries each time."""
    return torch.cuda.is_available()


def _first_ones(lost: Sequence[Duplicate]) -> list[dict[str, str]]:
    return [each._asdict() for each in lost[:_NAMED]]
