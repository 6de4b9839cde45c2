"""What all text shares: an example is tokens, and the tokens of a batch are padded to its longest."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor

from frostline.batch import Batch
from frostline.data.examples import Examples
from frostline.data.split import Split
from frostline.data.splitted import SPLITS, SplittedData
from frostline.errors import RequestError
from frostline.nn.text_input import TextInput


class TokenSplit(Split):
    """One split of texts as tokens.

    Args:
        examples: What is in it.
        ids: The tokens of each example, by place.
        spec: How they are padded.
        over_long: How many of them were longer, and are cut.
        seed: Draws what is random about each example in each epoch; None where nothing is.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        ids: Sequence[Any],
        spec: TextInput,
        over_long: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(examples, seed=seed)
        self.spec = spec
        self.over_long = over_long
        rows: list[int] = examples.rows.tolist()
        self._ids = dict(zip(rows, (np.asarray(each, dtype=np.int32) for each in ids), strict=True))

    @property
    def longest(self) -> int:
        """The tokens of the longest example."""
        return max(map(len, self._ids.values()))

    @abstractmethod
    def targets(self, inputs: dict[str, Tensor], places: NDArray[np.int64]) -> Tensor:
        """Return what the objective compares with, given the padded inputs."""

    def show(self, row: int) -> NDArray[np.int32]:
        """Return the tokens of one example."""
        return self._ids[row]

    def collate(self, shown: Sequence[NDArray[np.int32]], places: NDArray[np.int64]) -> Batch:
        """Return `input_ids` and `attention_mask` of shape (B, L), L the longest of the batch."""
        inputs = self.spec.padded(shown)
        return Batch(inputs, self.targets(inputs, places), torch.from_numpy(places))


@dataclass(kw_only=True, eq=False, repr=False)
class TokenData(SplittedData):
    """Texts that a network sees as tokens.

    Attributes:
        max_length: Tokens that the network sees of an example; null for as many as it can. What is longer is cut off
            and counted in `data.json`.
    """

    sized_by: ClassVar[str] = "data.max_length"

    max_length: Annotated[int, Gt(2)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expected: TextInput | None = None

    @property
    def spec(self) -> TextInput:
        """How the network takes text."""
        assert self._expected is not None, "call expect() with the network's TextInput before the data is used"
        return self._expected

    @property
    def longest(self) -> int:
        """Tokens that the network sees of an example, at most."""
        return self.max_length or self.spec.max_length

    def expect(self, spec: Any) -> None:
        """Take the tokenizer, and the length where the user chose none, from what the network expects.

        Raises:
            RequestError: The network takes no text, or none so long.
        """
        if not isinstance(spec, TextInput):
            raise RequestError("model: takes no text, but the data is text; choose another model, or data")
        if self.max_length is not None and self.max_length > spec.max_length:
            most = f"this network sees at most {spec.max_length} tokens"
            raise RequestError(f"data.max_length={self.max_length}: {most}; choose {spec.max_length} or less")
        self._expected, self._splits = spec, {}

    def remarks(self) -> list[str]:
        """Say how many texts are cut."""
        over = self._over_long()
        cut = ", ".join(f"{count} of {len(self.drawn(split))} in {split}" for split, count in over.items() if count)
        told = [f"data.max_length={self.longest}: {cut} are longer and cut"] if cut else []
        return [*told, *super().remarks()]

    def shown(self) -> dict[str, Any]:
        """Return which tokenizer cuts the text, the longest that is seen, and how many examples are longer."""
        cut = self._over_long()
        return {"tokenizer": self.spec.fingerprint, "max_length": self.longest, "over_long": cut}

    def _over_long(self) -> dict[str, int]:
        drawn = {split: self.drawn(split) for split in SPLITS}
        return {split: each.over_long for split, each in drawn.items() if isinstance(each, TokenSplit)}
