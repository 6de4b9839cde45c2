"""What every image classification dataset shares."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt
from torch import Tensor

from frostline.data.examples import Examples
from frostline.data.image_split import ImageSplit, Mixing
from frostline.data.pixels import AugmentedImages, Images, fitted
from frostline.data.splitted import SplittedData
from frostline.errors import RequestError
from frostline.nn.backbone import ImageInput


@dataclass(kw_only=True, eq=False, repr=False)
class ImageData(SplittedData):
    """Images with one label each, in three splits that share no content.

    Attributes:
        image_size: Side of the square that the network sees, in pixels; None for what the network expects.
        augment: Show every training example changed at random in each epoch, in the dataset's own way.
        mix: Mix each training image and its label with another one of its batch, by `mixup` or `cutmix`.
        mix_alpha: Parameter of the Beta distribution from which the share of each is drawn.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "self_supervised")

    image_size: Annotated[int, Gt(0)] | None = None
    augment: bool = False
    mix: Literal["mixup", "cutmix"] | None = None
    mix_alpha: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expected: ImageInput | None = None

    @abstractmethod
    def augmentation(self, size: int) -> Callable[[Tensor], Tensor]:
        """Return the random change of a fitted training image, uint8 (3, size, size) to the same."""

    def augmented(self, images: Images, size: int) -> Images:
        """Return the training images as augmentation shows them, uint8 of shape (3, size, size)."""
        return AugmentedImages(images=fitted(images, size), transform=self.augmentation(size))

    def size_for(self, expected: int) -> int:
        """Return the side in pixels where the user chose none, given what the network expects."""
        return expected

    def expect(self, spec: Any) -> None:
        """Take the normalisation, and the size where the user chose none, from what the network expects.

        Raises:
            RequestError: The network takes no images.
        """
        if not isinstance(spec, ImageInput):
            raise RequestError("model: takes no images, which the data has; choose another model, or data")
        size = self.image_size or self.size_for(spec.size)
        self._expected = ImageInput(size=size, mean=spec.mean, std=spec.std)
        self._splits = {}

    @property
    def spec(self) -> ImageInput:
        """What the network is shown: side in pixels, mean and standard deviation per channel."""
        assert self._expected is not None, "call expect() with the network's ImageInput before the data is used"
        return self._expected

    def split(self, examples: Examples, *, random: bool) -> ImageSplit:
        """Return images of one size, augmented where that was asked for."""
        augmented, size = self.augment and random, self.spec.size
        pixels = self.augmented(examples.content, size) if augmented else fitted(examples.content, size)
        seed, mixing = self.seed if augmented else None, self._mixing() if random else None
        return ImageSplit(examples, pixels=pixels, spec=self.spec, seed=seed, mixing=mixing)

    def _mixing(self) -> Mixing | None:
        if self.mix is None:
            return None
        return Mixing(kind=self.mix, alpha=self.mix_alpha, classes=len(self.class_names), seed=self.seed)

    def shown(self) -> dict[str, Any]:
        """Return size, normalisation and whether images are augmented."""
        mean, std = list(self.spec.mean), list(self.spec.std)
        chosen = {"augment": self.augment, "mix": self.mix, "mix_alpha": self.mix_alpha}
        return {"image_size": self.spec.size, "mean": mean, "std": std, **chosen}
